// Exchanges the names in URLs that the page's scripts put together, before the browser acts on them.
const mark = Symbol.for("causeway.runtime");
if (window[mark]) return;
Object.defineProperty(window, mark, { value: version });

const mapped = (value) => {
  if (typeof value === "string") return map(value);
  if (!(value instanceof URL)) return value; // objects of the page's are not asked what they say
  const to = map(value.href);
  return to === value.href ? value : to;
};
const mappedSet = (value) =>
  typeof value === "string" ? value.replace(/(^|[\s,])((?:https?:)?\/\/[^\s,/?#]+)/gi, (_, before, url) => before + map(url)) : value;

// wrap lets change see the arguments of a method, a constructor or a setter. A proxy keeps its name,
// its length and what it says it is; what it throws is the browser's own.
const wrap = (holder, name, change) => {
  const own = holder && Object.getOwnPropertyDescriptor(holder, name);
  const kind = own?.set ? "set" : "value";
  if (!own?.configurable || typeof own[kind] !== "function") return;
  const native = own[kind];
  own[kind] = new Proxy(native, {
    apply: (f, self, args) => Reflect.apply(f, self, change(args, self)),
    construct: (f, args, target) => Reflect.construct(f, change(args), target),
  });
  Object.defineProperty(holder, name, own);
  if (native.prototype?.constructor === native) native.prototype.constructor = own[kind];
};
const argument = (i, change = mapped) => (args) => {
  if (i < args.length) args[i] = change(args[i]);
  return args;
};
const member = (name) => (value) => (typeof value?.[name] === "string" ? { ...value, [name]: map(value[name]) } : value);

// Requests.
for (const name of ["fetch", "open", "Request", "WebSocket", "WebTransport", "EventSource", "Worker", "SharedWorker", "Audio"]) {
  wrap(window, name, argument(0));
}
wrap(window.XMLHttpRequest?.prototype, "open", argument(1));
wrap(window.Navigator?.prototype, "sendBeacon", argument(0));
wrap(window.Worklet?.prototype, "addModule", argument(0));
wrap(window.ServiceWorkerContainer?.prototype, "register", (args) => argument(1, member("scope"))(argument(0)(args)));
wrap(window, "postMessage", (args) => argument(1, typeof args[1] === "string" ? map : member("targetOrigin"))(args));

// Addresses.
wrap(History.prototype, "pushState", argument(2));
wrap(History.prototype, "replaceState", argument(2));
window.navigation?.addEventListener("navigate", (event) => {
  const to = map(event.destination.url);
  if (to === event.destination.url || !event.cancelable || event.formData || typeof event.downloadRequest === "string") return;
  event.preventDefault();
  location[event.navigationType === "replace" ? "replace" : "assign"](to);
});

// Elements: what scripts set, and what stands there when someone clicks or submits.
for (const [elements, properties] of [
  ["Script Image Source Media IFrame Frame Embed Input Track", "src"],
  ["Anchor Area Base Link", "href"],
  ["Form", "action"],
  ["Input Button", "formAction"],
  ["Video", "poster"],
  ["Object", "data"],
  ["Image Source", "srcset"],
  ["Link", "imageSrcset"],
]) {
  const change = /srcset/i.test(properties) ? mappedSet : mapped;
  for (const element of elements.split(" ")) wrap(window["HTML" + element + "Element"]?.prototype, properties, argument(0, change));
}
const attribute = /^(?:src|href|xlink:href|action|formaction|poster|data|(?:image)?(srcset))$/i;
const set = (at) => (args) => {
  const kind = typeof args[at] === "string" && attribute.exec(args[at]);
  return kind ? argument(at + 1, kind[1] ? mappedSet : mapped)(args) : args;
};
wrap(Element.prototype, "setAttribute", set(0));
wrap(Element.prototype, "setAttributeNS", set(1));

const get = Element.prototype.getAttribute;
const mend = (element, ...attributes) => {
  if (!(element instanceof Element)) return;
  for (const name of attributes) {
    const value = get.call(element, name);
    if (value && map(value) !== value) Element.prototype.setAttribute.call(element, name, map(value));
  }
};
for (const type of ["click", "auxclick", "contextmenu"]) {
  addEventListener(type, (event) => {
    for (const element of event.composedPath()) if (/^(?:a|area)$/.test(element.localName)) mend(element, "href", "xlink:href");
  }, true);
}
addEventListener("submit", (event) => {
  mend(event.target, "action");
  mend(event.submitter, "formaction");
}, true);
wrap(HTMLFormElement.prototype, "submit", (args, form) => {
  mend(form, "action");
  return args;
});

// The worker maps what no script of the page asks for: url() in CSS, import(), what workers fetch.
// It takes the place of no other, and where there can be none (plain http, a private window, a
// sandbox) the page does without.
const register = async () => {
  const container = navigator.serviceWorker;
  if (!container) return;
  const there = await container.getRegistration(location.origin + "/");
  const script = there && (there.active || there.waiting || there.installing);
  if (script && !new URL(script.scriptURL).pathname.startsWith("/.causeway/worker-")) return;
  let url = location.origin + "/.causeway/worker-" + version + ".js";
  if (window.trustedTypes) url = trustedTypes.createPolicy("causeway", { createScriptURL: (text) => text }).createScriptURL(url);
  await container.register(url, { scope: "/" });
};
register().catch(() => {});
