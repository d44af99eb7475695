// Exchanges the names in requests of the site's pages and of their workers. Every other request goes
// on as if there were no worker here, and navigations never wait for it.
addEventListener("install", (event) => {
  skipWaiting();
  if (event.addRoutes) event.waitUntil(event.addRoutes({ condition: { requestMode: "navigate" }, source: "network" }));
});
addEventListener("activate", (event) => event.waitUntil(clients.claim()));
addEventListener("fetch", (event) => {
  const to = map(event.request.url);
  if (to !== event.request.url && event.request.mode !== "navigate") event.respondWith(ask(event.request, to));
});

const ask = async (request, to) => {
  const { method, headers, mode, credentials, cache, redirect, referrer, referrerPolicy, integrity, keepalive, signal } = request;
  const body = method === "GET" || method === "HEAD" ? undefined : await request.blob();
  return fetch(to, { method, headers, body, mode, credentials, cache, redirect, referrer, referrerPolicy, integrity, keepalive, signal });
};
