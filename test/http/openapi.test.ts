/** openapi.yaml is the description of the routes that there are, and of no others. */

import { describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { openApi } from '../support/openapi.ts';
import { keyB, startVault, temporaryDatabase } from '../support/vault.ts';

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

  it('requires a body exactly where a call without one is refused', async () => {
    const { url } = await temporaryDatabase();
    const { gateway, admin } = await startVault(url, { PROVARA_MASTER_KEY_NEW: keyB });
    const posts = Object.entries(openApi.paths).flatMap(([path, { post }]) =>
      post?.requestBody ? [{ path, ...post.requestBody }] : [],
    );
    for (const { path, required } of posts) {
      const call = path.startsWith('/admin') ? admin : gateway;
      const { status } = await call('POST', path);
      expect(required, path).toBe([400, 415].includes(status));
    }
    expect(posts.length).toBeGreaterThan(8);
  });
});
