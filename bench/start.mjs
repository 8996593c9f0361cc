// From the start of the process to its first good answer.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { alternate, fileWith, freePort, serviceOptions, timed, vaultEnvironment } from './support.mjs';

async function untilReady(script, environment) {
  const port = await freePort();
  let child;
  const seconds = await timed(async () => {
    child = spawn(process.execPath, [...serviceOptions, fileURLToPath(new URL(script, import.meta.url))], {
      env: { PATH: process.env.PATH, NODE_ENV: 'production', PORT: String(port), ...environment },
      stdio: 'ignore',
    });
    const isReady = () =>
      fetch(`http://127.0.0.1:${port}/ready`).then(
        ({ ok }) => ok,
        () => false,
      );
    while (!(await isReady())) await new Promise((resolve) => setTimeout(resolve, 2));
  });
  child.kill('SIGTERM');
  await once(child, 'exit');
  return seconds;
}

export async function start() {
  const { url } = await fileWith(100_000);
  const environment = vaultEnvironment(url);
  await untilReady('../dist/server.js', environment);
  const seconds = await alternate(9, {
    vault: () => untilReady('../dist/server.js', environment),
    bare: () => untilReady('bare-start.mjs', {}),
  });
  return [
    {
      figure: 'start: from the process to `/ready`, 100,000 rows',
      reference: 'a bare Fastify server to its first answer',
      ratio: seconds.vault / seconds.bare,
      atMost: 3,
    },
  ];
}
