// Passkeys: a form with data-passkey asks the server for options, has the browser create ("create") or use ("get") a
// passkey, and is then sent with it. Without scripts, or without passkeys in the browser, it stays hidden.

const toBytes = (text) =>
  Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (mark) => mark.charCodeAt(0));

const toText = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

const listed = (credentials) => (credentials ?? []).map((each) => ({ ...each, id: toBytes(each.id) }));

const decoded = (options) => ({
  ...options,
  challenge: toBytes(options.challenge),
  ...(options.user && { user: { ...options.user, id: toBytes(options.user.id) } }),
  excludeCredentials: listed(options.excludeCredentials),
  allowCredentials: listed(options.allowCredentials),
});

const encoded = ({ id, rawId, type, response }) => {
  const parts = ["clientDataJSON", "attestationObject", "authenticatorData", "signature", "userHandle"];
  const texts = parts.filter((name) => response[name]).map((name) => [name, toText(response[name])]);
  return JSON.stringify({ id, rawId: toText(rawId), type, response: Object.fromEntries(texts) });
};

const WORDS = {
  NotAllowedError: "It was canceled or took too long.",
  InvalidStateError: "This device already has a passkey for you.",
  SecurityError: "The browser does not allow passkeys at this address.",
};

const ask = async (form) => {
  const body = new URLSearchParams(new FormData(form));
  const answer = await fetch(`${form.action}/options`, { method: "POST", body });
  if (answer.redirected || !answer.ok) {
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const told = page.querySelector(answer.ok ? ".note" : "main section p");
    if (told) throw new Error(told.textContent);
    location.assign(answer.url);  // the person must confirm their identity first
    return;
  }
  const publicKey = decoded(await answer.json());
  const credential = await navigator.credentials[form.dataset.passkey]({ publicKey });
  form.elements.credential.value = encoded(credential);
  form.submit();
};

for (const form of window.PublicKeyCredential ? document.querySelectorAll("form[data-passkey]") : []) {
  form.closest("[hidden]")?.removeAttribute("hidden");
  const told = form.querySelector("[role=alert]");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button");
    button.disabled = true;
    told.textContent = "";
    try {
      await ask(form);
    } catch (error) {
      told.textContent = WORDS[error.name] ?? error.message;
    }
    button.disabled = false;
  });
}
