// Today's way: reads all rows, opens all of them, and writes them back with one UPDATE per row through the client.
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { createClient } from '@libsql/client';

const [url, oldKey, newKey] = process.argv.slice(2);
const [from, to] = [oldKey, newKey].map((key) => Buffer.from(key, 'hex'));
const client = createClient({ url });

const { rows } = await client.execute('SELECT id, encrypted_value, iv, auth_tag FROM api_keys');
const opened = rows.map(({ id, encrypted_value, iv, auth_tag }) => {
  const decipher = createDecipheriv('aes-256-gcm', from, Buffer.from(iv, 'hex'));
  decipher.setAuthTag(Buffer.from(auth_tag, 'hex'));
  return { id, plaintext: decipher.update(encrypted_value, 'hex', 'utf8') + decipher.final('utf8') };
});
for (const { id, plaintext } of opened) {
  const iv = randomBytes(16);
  const cipher = createCipheriv('aes-256-gcm', to, iv);
  const encrypted = cipher.update(plaintext, 'utf8', 'hex') + cipher.final('hex');
  const args = [encrypted, iv.toString('hex'), cipher.getAuthTag().toString('hex'), id];
  await client.execute({ sql: 'UPDATE api_keys SET encrypted_value = ?, iv = ?, auth_tag = ? WHERE id = ?', args });
}
client.close();
