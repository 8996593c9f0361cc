// A bare Fastify server, the reference for the vault's start.
import { fastify } from 'fastify';

const app = fastify();
app.get('/ready', async () => ({ status: 'ready' }));
await app.listen({ host: '127.0.0.1', port: Number(process.env.PORT) });
