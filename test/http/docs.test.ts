/** `/docs` is a page that anyone may open, that loads nothing from elsewhere and runs nothing but its own scripts. */

import { fetch } from 'undici';
import { describe, expect, it } from 'vitest';
import { caller, startVault, temporaryDatabase } from '../support/vault.ts';

async function startDocs() {
  const { url } = await temporaryDatabase();
  const { origin, close } = await startVault(url);
  const get = async (path: string) => {
    const response = await fetch(origin + path, { headers: { connection: 'close' } });
    return { status: response.status, headers: response.headers, text: await response.text() };
  };
  return { origin, get, close };
}

describe('/docs', () => {
  it('renders the description without a token, and every file that it names is the vault’s own', async () => {
    const { get } = await startDocs();
    for (const place of ['/docs', '/docs/']) {
      const { status, headers, text } = await get(place);
      expect(status).toBe(200);
      expect(headers.get('content-type')).toContain('text/html');
      const files = [...text.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, file = '']) => new URL(file, `http://vault${place}`));
      expect(files.length).toBeGreaterThan(4);
      for (const file of files) {
        expect(file.host).toBe('vault');
        expect((await get(file.pathname)).status, file.pathname).toBe(200);
      }
    }
    const { text: initializer } = await get('/docs/static/swagger-initializer.js');
    expect(initializer).toContain('"validatorUrl":null');
    const { text: description } = await get('/docs/json');
    expect(JSON.parse(description)).toEqual(JSON.parse((await get('/openapi.json')).text));
  });

  it('carries a policy that allows no inline script, no other origin and no frame, on every file', async () => {
    const { get } = await startDocs();
    for (const path of ['/docs', '/docs/json', '/docs/static/swagger-ui-bundle.js', '/docs/static/no-such-file.js']) {
      const { headers, text } = await get(path);
      const policy = headers.get('content-security-policy') ?? '';
      expect(policy).toContain("default-src 'none'");
      expect(policy).toContain("frame-ancestors 'none'");
      expect(policy).not.toMatch(/unsafe|https?:/);
      expect(headers.get('cache-control')).toBe('no-store');
      expect(headers.get('x-request-id')).toBeTruthy();
      if (path === '/docs') expect(text).not.toMatch(/<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=/);
    }
    expect((await get('/openapi.json')).headers.get('content-security-policy')).toBeNull();
  });

  it('answers 404 in the vault’s own words to what is not there, and to a way out of its folder', async () => {
    const { origin, get } = await startDocs();
    for (const path of [
      '/docs/static/none.js',
      '/docs/static/..%2f..%2fpackage.json',
      '/docs/static/%2e%2e/%2e%2e/package.json',
    ]) {
      const { status, text } = await get(path);
      expect([403, 404], path).toContain(status);
      expect(JSON.parse(text)).toMatchObject({ error: { type: expect.stringMatching(/not_found|forbidden|validation/) } });
    }
    expect((await caller(origin, null)('GET', '/docs/none')).status).toBe(404);
  });
});
