// A real OpenID provider (node-oidc-provider) on this machine. A person who signs in as NAME has NAME@example.com.
// Arguments: client ID, client secret, redirect URI, post-logout redirect URI. It prints its issuer when it listens.

import { createServer } from "node:http";
import Provider from "oidc-provider";

const [clientId, clientSecret, redirectUri, signedOutUri] = process.argv.slice(2);

const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [{
      client_id: clientId,
      client_secret: clientSecret,
      redirect_uris: [redirectUri],
      post_logout_redirect_uris: [signedOutUri],
    }],
    claims: { openid: ["sub", "auth_time"], email: ["email", "email_verified"] },
    cookies: { keys: ["a key for this test"] },
    pkce: { required: () => true },
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({ sub: id, email: `${id}@example.com`, email_verified: id !== "unverified" }),
    }),
  });
  server.on("request", provider.callback());
  console.log(issuer);
});
process.stdin.on("end", () => process.exit()).resume();
