/** `generate`: a fresh master key. */

import { generateMasterKeyText, parseMasterKey } from '../crypto/master-key.ts';
import { print, printJson } from './output.ts';

export interface GenerateFlags {
  readonly json?: boolean;
}

export function generate({ json }: GenerateFlags): void {
  const text = generateMasterKeyText();
  if (json) printJson({ master_key: text, key_id: parseMasterKey(text).id });
  else print(text);
}
