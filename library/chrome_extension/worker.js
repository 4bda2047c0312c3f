// Fetches what is to be done, does it, tells what came of it; one job at a time.
// Chrome stops a worker that is silent for 30 s: polls are shorter, and an alarm starts it again.

import { perform } from "./actions.js";

const ALARM = "poll";
const WAIT_SECONDS = 25;
const LONGEST_PAUSE = 60_000;
let polling = false;
let waiting = null;

chrome.runtime.onInstalled.addListener(({ reason }) => {
  begin();
  if (reason === "install") chrome.runtime.openOptionsPage();
});
chrome.runtime.onStartup.addListener(begin);
chrome.runtime.onMessage.addListener(() => {
  waiting?.abort(); // the options have changed
  begin();
});
chrome.alarms.onAlarm.addListener(begin);
chrome.action.onClicked.addListener(() => chrome.runtime.openOptionsPage());
begin();

function begin() {
  chrome.alarms.create(ALARM, { periodInMinutes: 0.5 });
  if (!polling) poll();
}

async function poll() {
  polling = true;
  let pause = 1000;
  try {
    await closeLeftTabs();
    for (;;) {
      const settings = await chrome.storage.local.get(["address", "key", "session"]);
      if (!settings.address || !settings.key) return await told("address or key is missing");
      const session = settings.session ?? crypto.randomUUID();
      if (!settings.session) await chrome.storage.local.set({ session });
      try {
        waiting = new AbortController();
        const { job } = await ask("poll", { session, wait: WAIT_SECONDS }, waiting.signal);
        await told("connected");
        pause = 1000;
        if (job) await work(job);
      } catch (error) {
        if (error.name === "AbortError") continue;
        await told(error.message);
        if (error.status === 401 || error.status === 403) return; // until the next alarm, or another key
        await new Promise((done) => setTimeout(done, Math.max(pause, 1000 * (error.after ?? 0))));
        pause = Math.min(2 * pause, LONGEST_PAUSE) * (0.8 + 0.4 * Math.random());
      }
    }
  } finally {
    polling = false;
  }
}

async function work(job) {
  const held = { id: job.id, lease: job.lease };
  let lost = false;
  const renewing = setInterval(
    () => ask("renew", held).catch((error) => (lost ||= error.status === 409)),
    (1000 * job.lease_seconds) / 3,
  );
  let result;
  try {
    result = await perform(job.actions, Date.now() + 1000 * job.seconds, () => lost);
  } finally {
    clearInterval(renewing);
  }
  // What can't be told now is told again; the job is another browser's when the lease has ended.
  for (let attempt = 1; !lost; attempt++) {
    try {
      await ask("result", { ...held, ...result });
      return;
    } catch (error) {
      if (error.status === 409 || attempt === 3) return;
      if (error.status === 413) result = { success: false, data: { html: "" }, error: "what came of it is too large: extract less" };
      await new Promise((done) => setTimeout(done, 1000));
    }
  }
}

async function ask(what, body, signal) {
  const { address, key } = await chrome.storage.local.get(["address", "key"]);
  const answer = await fetch(`${address}/run/chrome_extension/${what}`, {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${key}` },
    body: JSON.stringify(body),
    credentials: "omit",
    signal,
  });
  if (answer.ok) return answer.json();
  const said = await answer.json().catch(() => ({}));
  const error = new Error(said.detail ?? `the platform answered ${answer.status}`);
  throw Object.assign(error, { status: answer.status, after: Number(answer.headers.get("Retry-After")) });
}

// A worker that was stopped amid a job has left its tab.
async function closeLeftTabs() {
  const { tabs = [] } = await chrome.storage.session.get("tabs");
  for (const tab of tabs) await chrome.tabs.remove(tab).catch(() => {});
  await chrome.storage.session.remove("tabs");
}

async function told(state) {
  await chrome.storage.local.set({ state });
}
