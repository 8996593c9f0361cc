/** The client's types and the server's have one source. */

import { expect, it } from 'vitest';
import { wireTypes } from '../support/wire-types.ts';

it('src/client/wire.ts is what the server’s schemas say (vitest -u writes it anew)', async () => {
  await expect(wireTypes()).toMatchFileSnapshot('../../src/client/wire.ts');
});
