// A real, certified OpenID provider for the tests: one client, four people (password = name), rotating refresh tokens.
//
// usage: node provider.mjs '{"redirectUris": [...], "postLogoutRedirectUris": [...], "clientId": "...",
//                            "clientSecret": "...", "port": 0, "accessTokenLife": 300}'
// Prints one JSON object a line: {"ready": issuer} once, then {"request": "GET /path"} for each request it got, and
// {"issued": token} for each token it gave out, so that a test can look for it where it must not be.
import { createHash, generateKeyPairSync, randomBytes, timingSafeEqual } from 'node:crypto';
import { createServer } from 'node:http';
import { Provider } from 'oidc-provider';

const { redirectUris, postLogoutRedirectUris, clientId, clientSecret, port = 0, accessTokenLife = 300 } = JSON.parse(process.argv[2]);

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

const person = (name, groups) => ({
  sub: `${name}-at-the-real-provider`,
  name: name[0].toUpperCase() + name.slice(1),
  preferred_username: name,
  email: `${name}@example.com`,
  email_verified: true,
  groups,
});
const people = new Map([
  ['alice', person('alice', ['admins', 'engineering'])],
  ['bob', person('bob', ['engineering'])],
  ['carol', person('carol', ['sales'])],
  // in so many groups that no URL carries them
  ['dora', person('dora', Array.from({ length: 400 }, (_, n) => `department-of-long-names-${n}`))],
]);
const bySubject = new Map([...people.values()].map((claims) => [claims.sub, claims]));

const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
const signingKey = { ...privateKey.export({ format: 'jwk' }), alg: 'RS256', use: 'sig', kid: 'tests' };

const escape = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
const page = (title, body) => `<!doctype html><html lang="en"><meta charset="utf-8"><title>${title}</title>
<main><h1>${title}</h1>${body}</main></html>`;
const signInPage = (uid, wrong) =>
  page(
    'Sign in',
    `${wrong ? '<p role="alert">Wrong name or password.</p>' : ''}
<form method="post" action="/interaction/${escape(uid)}/login">
<label>Name <input name="login" autocomplete="username" autofocus required></label>
<label>Password <input name="password" type="password" autocomplete="current-password" required></label>
<button>Sign in</button></form>`,
  );

const configuration = {
  clients: [
    {
      client_id: clientId,
      client_secret: clientSecret,
      redirect_uris: redirectUris,
      post_logout_redirect_uris: postLogoutRedirectUris,
      grant_types: ['authorization_code', 'refresh_token'],
      response_types: ['code'],
      token_endpoint_auth_method: 'client_secret_basic',
    },
  ],
  jwks: { keys: [signingKey] },
  cookies: { keys: [randomBytes(32).toString('base64url')] },
  claims: {
    openid: ['sub'],
    profile: ['name', 'preferred_username', 'groups'],
    email: ['email', 'email_verified'],
  },
  // the claims of the granted scopes stand in the ID token as well, as most providers have it
  conformIdTokenClaims: false,
  pkce: { required: () => true },
  rotateRefreshToken: true,
  issueRefreshToken: async (_ctx, client) => client.grantTypeAllowed('refresh_token'),
  ttl: { AccessToken: accessTokenLife, AuthorizationCode: 60, Grant: 3600, IdToken: 300, Interaction: 600, RefreshToken: 3600, Session: 3600 },
  interactions: { url: (_ctx, interaction) => `/interaction/${interaction.uid}` },
  findAccount: (_ctx, id) => {
    const claims = bySubject.get(id);
    return claims && { accountId: id, claims: () => claims };
  },
  // nobody is asked for consent
  loadExistingGrant: async (ctx) => {
    const { client, session, provider } = ctx.oidc;
    const known = session.grantIdFor(client.clientId);
    if (known) return provider.Grant.find(known);
    const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
    grant.addOIDCScope('openid profile email offline_access');
    await grant.save();
    return grant;
  },
  features: {
    devInteractions: { enabled: false },
    rpInitiatedLogout: {
      enabled: true,
      logoutSource: (ctx, form) => {
        ctx.body = page(
          'Sign out of the provider?',
          `${form}<button form="op.logoutForm" name="logout" value="yes">Yes, sign out</button>`,
        );
      },
      postLogoutSuccessSource: (ctx) => {
        ctx.body = page('Signed out of the provider', '');
      },
    },
  },
  renderError: (ctx, out) => {
    ctx.type = 'html';
    ctx.body = page('Error', `<pre>${escape(JSON.stringify(out, null, 2))}</pre>`);
  },
};

const equal = (a, b) => {
  const [x, y] = [a, b].map((text) => createHash('sha256').update(text).digest());
  return timingSafeEqual(x, y);
};

async function formOf(request) {
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size > 16384) throw new Error('form too large');
    chunks.push(chunk);
  }
  return new URLSearchParams(Buffer.concat(chunks).toString());
}

async function interact(provider, request, response, uid, submitted) {
  // refuses whoever does not hold the interaction's cookie
  const details = await provider.interactionDetails(request, response);
  if (details.uid !== uid) throw new Error('another interaction');
  let wrong = false;
  if (submitted) {
    const form = await formOf(request);
    const [login, password] = [form.get('login') ?? '', form.get('password') ?? ''];
    if (people.has(login) && equal(login, password)) {
      await provider.interactionFinished(request, response, { login: { accountId: people.get(login).sub } });
      return;
    }
    wrong = true;
  }
  response.writeHead(wrong ? 401 : 200, { 'content-type': 'text/html; charset=utf-8', 'cache-control': 'no-store' });
  response.end(signInPage(uid, wrong));
}

const server = createServer();
server.listen(port, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, configuration);
  const protocol = provider.callback();
  provider.on('server_error', (_ctx, error) => process.stderr.write(`${error.stack}\n`));
  for (const event of ['authorization.error', 'grant.error', 'end_session.error', 'userinfo.error']) {
    provider.on(event, (_ctx, error) => process.stderr.write(`${event}: ${error.error}: ${error.error_description}\n`));
  }
  provider.on('grant.success', ({ body }) => {
    for (const kind of ['access_token', 'refresh_token', 'id_token']) if (body[kind]) say({ issued: body[kind] });
  });
  server.on('request', (request, response) => {
    const { pathname } = new URL(request.url, issuer);
    say({ request: `${request.method} ${pathname}` });
    const match = /^\/interaction\/([\w-]+)(\/login)?$/.exec(pathname);
    if (!match) return protocol(request, response);
    interact(provider, request, response, match[1], request.method === 'POST' && Boolean(match[2])).catch((error) => {
      response.writeHead(400, { 'content-type': 'text/html; charset=utf-8' });
      response.end(page('Error', `<pre>${escape(error.message)}</pre>`));
    });
  });
  say({ ready: issuer });
});
