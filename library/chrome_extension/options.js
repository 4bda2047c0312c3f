// The platform's address, a key, the sites that are allowed; and how it goes.

const fields = ["address", "key", "sites"];
const field = (name) => document.getElementById(name);
const status = document.getElementById("status");

const settings = await chrome.storage.local.get(fields);
for (const name of fields) field(name).value = settings[name] ?? "";
field("fields").disabled = false;

document.getElementById("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const changed = Object.fromEntries(fields.map((name) => [name, field(name).value.trim()]));
  changed.address = changed.address.replace(/\/+$/, "");
  await chrome.storage.local.set({ ...changed, state: "saved" });
  await chrome.runtime.sendMessage("begin").catch(() => {});
});

const show = async () => {
  status.value = (await chrome.storage.local.get("state")).state ?? "";
};
chrome.storage.onChanged.addListener(show);
await show();
