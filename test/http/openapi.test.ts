/** openapi.yaml is the description of the routes that there are, and of no others. */

import { describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { openApi } from '../support/openapi.ts';
import { startVault, temporaryDatabase } from '../support/vault.ts';

describe('openapi.yaml', () => {
  it('is what the routes themselves say (vitest -u writes it anew)', async () => {
    const { url } = await temporaryDatabase();
    const { app } = await startVault(url);
    await expect(stringify(app.swagger(), { aliasDuplicateObjects: false, lineWidth: 120 })).toMatchFileSnapshot(
      '../../openapi.yaml',
    );
  });

  it('describes every route that is registered, and none that is not', async () => {
    const { url } = await temporaryDatabase();
    const { routes } = await startVault(url);
    const registered = routes.map(({ method, url: path }) => `${method} ${path.replaceAll(/:(\w+)/g, '{$1}')}`);
    const described = Object.entries(openApi.paths).flatMap(([path, operations]) =>
      Object.keys(operations).map((method) => `${method.toUpperCase()} ${path}`),
    );
    expect(described.sort()).toEqual(registered.sort());
  });
});
