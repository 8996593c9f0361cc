// Loaded into a process that is measured: its last line of output is the most memory that it ever held, in KiB.
import { readFileSync, writeSync } from 'node:fs';

/** What getrusage says on Linux begins with the parent's own, at the time of the fork: a large one would be all that is measured. */
function mostKib() {
  if (process.platform !== 'linux') return process.resourceUsage().maxRSS;
  const [, kib] = /^VmHWM:\s*(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'));
  return Number(kib);
}

process.on('exit', () => writeSync(1, `\n${mostKib()}\n`));
