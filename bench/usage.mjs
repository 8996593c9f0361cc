// Preloaded into a measured process: adds a last line of output with its peak memory in KiB.
import { readFileSync, writeSync } from 'node:fs';

/**
 * On Linux, getrusage starts with the parent's memory at the time of the fork: that of a large parent would be all that is
 * measured.
 */
function mostKib() {
  if (process.platform !== 'linux') return process.resourceUsage().maxRSS;
  const [, kib] = /^VmHWM:\s*(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'));
  return Number(kib);
}

process.on('exit', () => writeSync(1, `\n${mostKib()}\n`));
