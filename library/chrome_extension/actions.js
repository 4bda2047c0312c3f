// What a job may do, in a tab of its own, on the sites that the user allows.

const LOAD_MS = 30_000;

// → {success, data, error?}. `end`: when it has to be over (ms); `lost()`: whether the job is another browser's by now.
export async function perform(actions, end, lost) {
  const data = { html: "", results: [] };
  let tab = null;
  try {
    tab = await open();
    for (const [number, action] of actions.entries()) {
      if (lost()) throw new Error("the job was given to another browser");
      if (Date.now() > end) throw new Error("there was no time left");
      try {
        const found = await one(tab, action, data);
        data.results.push({ type: action.type, ...found });
      } catch (error) {
        data.failed_action = number;
        throw new Error(`${action.type} (action ${number}): ${error.message}`);
      }
    }
    return { success: true, data: await finished(tab, data) };
  } catch (error) {
    const shown = tab === null ? data : await finished(tab, data).catch(() => data);
    return { success: false, data: shown, error: error.message };
  } finally {
    if (tab !== null) await close(tab);
  }
}

// In a window of its own: a picture is of what a window shows.
async function open() {
  const shown = await chrome.windows.create({ url: "about:blank", focused: false, width: 1280, height: 1024 });
  const tab = shown.tabs[0].id;
  const { tabs = [] } = await chrome.storage.session.get("tabs");
  await chrome.storage.session.set({ tabs: [...tabs, tab] });
  return tab;
}

async function close(tab) {
  await chrome.tabs.remove(tab).catch(() => {});
  const { tabs = [] } = await chrome.storage.session.get("tabs");
  await chrome.storage.session.set({ tabs: tabs.filter((each) => each !== tab) });
}

async function finished(tab, data) {
  const { url, title } = await chrome.tabs.get(tab);
  if (!(await allowed(url))) return { ...data, html: data.html };
  return { ...data, url, title, html: data.html || (await inPage(tab, htmlOf, [null])) };
}

async function one(tab, action, data) {
  if (action.type === "navigate") return navigate(tab, action.url);
  await loaded(tab);
  await mustBeAllowed(tab);
  const timeout = action.timeout ?? 10_000;
  switch (action.type) {
    case "wait":
      if (action.ms !== undefined) await new Promise((done) => setTimeout(done, action.ms));
      else await inPage(tab, appears, [action.selector, timeout], timeout + 5000);
      return {};
    case "click":
    case "type":
      await inPage(tab, appears, [action.selector, timeout], timeout + 5000);
      if (action.type === "click") await inPage(tab, click, [action.selector]);
      else await inPage(tab, type, [action.selector, action.text, action.submit ?? false]);
      await new Promise((done) => setTimeout(done, 150)); // for a navigation to begin
      return {};
    case "extract":
      await inPage(tab, appears, [action.selector ?? "body", timeout], timeout + 5000);
      return { value: await inPage(tab, extract, [action.selector ?? "body", action.attribute ?? null, action.all ?? false]) };
    case "extract_html":
      await inPage(tab, appears, [action.selector ?? "html", timeout], timeout + 5000);
      data.html = await inPage(tab, htmlOf, [action.selector ?? null]);
      return { value: data.html };
    case "screenshot": {
      const shot = await chrome.tabs.captureVisibleTab((await chrome.tabs.get(tab)).windowId, { format: "png" });
      await mustBeAllowed(tab); // it may have gone elsewhere just then
      data.screenshot = shot;
      return {};
    }
    default:
      throw new Error("this version of the extension doesn't know it: load the newest one");
  }
}

async function navigate(tab, url) {
  if (!(await allowed(url))) throw new Error(refusal(url));
  await chrome.tabs.update(tab, { url });
  await new Promise((done) => setTimeout(done, 50));
  await loaded(tab);
  await mustBeAllowed(tab); // it may have been redirected
  return { url: (await chrome.tabs.get(tab)).url };
}

async function loaded(tab) {
  for (const end = Date.now() + LOAD_MS; Date.now() < end; ) {
    if ((await chrome.tabs.get(tab)).status === "complete") return;
    await new Promise((done) => setTimeout(done, 50));
  }
}

async function mustBeAllowed(tab) {
  const { url } = await chrome.tabs.get(tab);
  if (!(await allowed(url))) throw new Error(refusal(url));
}

const refusal = (url) => `the browser's user hasn't allowed ${hostOf(url) || "this"}: its options list the sites that are`;

function hostOf(url) {
  try {
    const parts = new URL(url);
    return ["http:", "https:"].includes(parts.protocol) ? parts.host : "";
  } catch {
    return "";
  }
}

export async function allowed(url) {
  const host = hostOf(url);
  const { sites = "" } = await chrome.storage.local.get("sites");
  const listed = sites.toLowerCase().split(/\s+/).filter(Boolean);
  return host !== "" && listed.some((site) => (site.startsWith("*.") ? host.endsWith(site.slice(1)) : host === site));
}

// Where the tab is now the document itself tells, and only that one is touched: it may go elsewhere in between.
async function inPage(tab, func, args, ms = 10_000) {
  const [{ documentId, result: url }] = await within(ms, { target: { tabId: tab }, func: () => location.href });
  if (!(await allowed(url))) throw new Error(refusal(url));
  const [{ result }] = await within(ms, { target: { tabId: tab, documentIds: [documentId] }, func, args });
  if (!result) throw new Error("the page went elsewhere");
  if (result.error) throw new Error(result.error);
  return result.value;
}

// A page that goes elsewhere, or is busy, may never answer.
async function within(ms, injection) {
  let timer;
  const late = new Promise((_, fail) => {
    timer = setTimeout(() => fail(new Error("the page didn't answer: it went elsewhere, or is busy")), ms);
  });
  try {
    return await Promise.race([chrome.scripting.executeScript(injection), late]);
  } finally {
    clearTimeout(timer);
  }
}

// What follows runs in the page, in a world of its own; each stands for itself.

async function appears(selector, timeout) {
  try {
    for (const end = Date.now() + timeout; ; ) {
      if (document.querySelector(selector)) return {};
      if (Date.now() > end) return { error: `there is no ${selector} within ${timeout} ms` };
      await new Promise((done) => setTimeout(done, 50));
    }
  } catch {
    return { error: `${selector} is no selector` };
  }
}

function click(selector) {
  const found = document.querySelector(selector);
  found.scrollIntoView({ block: "center" });
  found.click();
  return {};
}

function type(selector, text, submit) {
  const found = document.querySelector(selector);
  found.focus();
  if (found.isContentEditable) {
    found.textContent = text;
  } else if ("value" in found) {
    // As the page's own framework hears it: by the element's setter, not the framework's.
    const setter = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(found), "value")?.set;
    if (setter) setter.call(found, text);
    else found.value = text;
  } else {
    return { error: `nothing can be typed into ${selector}` };
  }
  found.dispatchEvent(new InputEvent("input", { bubbles: true, inputType: "insertText", data: text }));
  found.dispatchEvent(new Event("change", { bubbles: true }));
  if (submit) {
    const enter = { key: "Enter", code: "Enter", keyCode: 13, bubbles: true, cancelable: true };
    const goesOn = found.dispatchEvent(new KeyboardEvent("keydown", enter));
    found.dispatchEvent(new KeyboardEvent("keyup", enter));
    if (goesOn && found.form) found.form.requestSubmit();
  }
  return {};
}

function extract(selector, attribute, all) {
  const value = (found) => (attribute === null ? found.innerText : found.getAttribute(attribute));
  return { value: all ? [...document.querySelectorAll(selector)].map(value) : value(document.querySelector(selector)) };
}

function htmlOf(selector) {
  const found = selector === null ? document.documentElement : document.querySelector(selector);
  return { value: found.outerHTML };
}
