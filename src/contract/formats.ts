/** Text formats that JSON Schema cannot express: what each accepts, and the error for anything else. */

const labelMaxBytes = 255;
// biome-ignore lint/suspicious/noControlCharactersInRegex: what it is there to refuse
const controlCharacter = /[\u0000-\u001f\u007f-\u009f]/;

export type FormatName = 'label' | 'unicode';

interface TextFormat {
  readonly takes: (text: string) => boolean;
  /** Continues a sentence that begins with the field's name. */
  readonly demand: string;
}

export const formats: Readonly<Record<string, TextFormat>> = {
  /** The id of a tenant, or a name, or a provider. JSON Schema counts characters, not bytes. */
  label: { takes: isLabel, demand: `must be 1 to ${labelMaxBytes} bytes without control characters` },
  /** Without lone surrogates, which would not survive a round trip. */
  unicode: { takes: (text) => text.isWellFormed(), demand: 'must be well-formed Unicode' },
} satisfies Record<FormatName, TextFormat>;

export function isLabel(text: string): boolean {
  const bytes = Buffer.byteLength(text, 'utf8');
  return bytes >= 1 && bytes <= labelMaxBytes && text.isWellFormed() && !controlCharacter.test(text);
}
