/** Tells a token that somebody drew at random from one that somebody typed: production takes none of the latter. */

const minCharacters = 16;
/** Sixteen random hex characters have fewer different ones than this about once in twenty thousand. */
const minDifferentCharacters = 6;

/** What tokens that nobody has changed yet are made of. Longer words stand before those that they begin with. */
const defaultWords =
  /changeme|change|replace|placeholder|password|passwd|passphrase|default|example|letmein|secret|gateway|metrics|provara|writer|bearer|tokens|token|admin|vault|todo|test|your|here|demo|key|api|this|dev|my|me|xxx/gi;

/** The end of a sentence that begins with the token's place and never holds the token, or null. */
export function tokenWeakness(token: string): string | null {
  if (token.length < minCharacters) return `is shorter than ${minCharacters} characters`;
  if (new Set(token).size < minDifferentCharacters) return `has fewer than ${minDifferentCharacters} different characters`;
  const rest = token.replaceAll(defaultWords, '');
  return rest !== token && !/[a-z]/i.test(rest) ? 'looks like a default: draw one at random' : null;
}
