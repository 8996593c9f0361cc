# The production image: the built service with production dependencies alone, run by a user without rights.
# Debian, not Alpine: the database client's native part crashes on musl (libsql-client-ts#354).
FROM node:24-bookworm-slim AS build
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci
COPY tsconfig.json ./
COPY scripts/build.mjs ./scripts/
COPY src ./src
RUN npm run build

FROM node:24-bookworm-slim AS dependencies
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci --omit=dev

FROM node:24-bookworm-slim
ENV NODE_ENV=production
WORKDIR /app
# npm would write its arguments, which may hold a key, to a log of its own.
COPY package.json .npmrc ./
COPY scripts/build.mjs ./scripts/
COPY --from=dependencies /app/node_modules ./node_modules
COPY --from=build /app/dist ./dist
COPY openapi.yaml LICENSE ./
USER node
EXPOSE 4100
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
  CMD ["node", "-e", "fetch(`http://localhost:${process.env.PORT || 4100}/ready`).then((answer) => process.exit(answer.ok ? 0 : 1), () => process.exit(1))"]
# The young generation is bounded: Node 24 lets it grow to hundreds of MiB on a large machine, which are never given back.
CMD ["node", "--max-semi-space-size=8", "--v8-pool-size=1", "dist/server.js"]
