/** The formats of text that JSON Schema has no words for: what each takes, and what who sends another is told. */

const labelMaxBytes = 255;
// biome-ignore lint/suspicious/noControlCharactersInRegex: what it is there to refuse
const controlCharacter = /[\u0000-\u001f\u007f-\u009f]/;

export type FormatName = 'label' | 'unicode';

interface TextFormat {
  readonly takes: (text: string) => boolean;
  /** Goes on from the name of the field. */
  readonly demand: string;
}

export const formats: Readonly<Record<string, TextFormat>> = {
  /** Of a tenant, a name or a provider. JSON Schema counts characters, not bytes. */
  label: { takes: isLabel, demand: `must be 1 to ${labelMaxBytes} bytes without control characters` },
  /** Without half a surrogate pair, which would not come back as it was. */
  unicode: { takes: (text) => text.isWellFormed(), demand: 'must be well-formed Unicode' },
} satisfies Record<FormatName, TextFormat>;

export function isLabel(text: string): boolean {
  const bytes = Buffer.byteLength(text, 'utf8');
  return bytes >= 1 && bytes <= labelMaxBytes && text.isWellFormed() && !controlCharacter.test(text);
}
