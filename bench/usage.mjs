// Loaded into a process that is measured: its last line of output is the most memory that it ever held, in KiB.
import { writeSync } from 'node:fs';

process.on('exit', () => writeSync(1, `\n${process.resourceUsage().maxRSS}\n`));
