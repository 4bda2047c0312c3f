-- Runs before the transcoder on the way in, after it on the way out. The template sets `nested` above this line.
--
-- In: the caller's head travels to the edge as ONE opaque header, x-runmesh-head, because gRPC metadata takes neither
-- every header name nor every byte, and because headers that stay could steer Envoy's router or gRPC. Nothing that the
-- caller sent reaches the edge under a name that means something to it.
-- Out: the content type of the edge's first message ("x-runmesh-answer|STATUS|name:value|…") becomes the head of the
-- answer. Metadata would be another message to send, and one of over 64 KiB would end the connection.
-- Both are lists of words, "|" between them, in which all but printable ASCII, and "%" and "|", is percent-encoded.

local DROPPED = {
  ["connection"] = true, ["expect"] = true, ["http2-settings"] = true, ["keep-alive"] = true,
  ["proxy-authenticate"] = true, ["proxy-authorization"] = true, ["proxy-connection"] = true, ["te"] = true,
  ["trailer"] = true, ["transfer-encoding"] = true, ["upgrade"] = true,
}
local KEYS = {["authorization"] = true, ["x-api-key"] = true, ["x-goog-api-key"] = true}
-- Envoy's router finds no route without x-forwarded-proto; the edge's spans hang under traceparent.
local KEPT = {["x-forwarded-proto"] = true, ["traceparent"] = true}
local PREFIXES = {"x-envoy-", "x-runmesh-", "x-http-code", "grpc-"}

local function dropped(name)
  if DROPPED[name] or (nested and KEYS[name]) or name:sub(-4) == "-bin" then return true end
  for _, prefix in ipairs(PREFIXES) do
    if name:sub(1, #prefix) == prefix then return true end
  end
  return false
end

-- A run's own key, or one of the platform's at least: an address of the form `http://user:password@…`, which somebody
-- gave a workflow to fetch, makes every client send credentials, too.
local function is_key(name, value)
  if name == "authorization" and value:sub(1, 7):lower() == "bearer " then value = value:sub(8):gsub("^ +", "") end
  return value:sub(1, 4) == "cwk-" or value:sub(1, 6) == "cwotk-"
end

local function encoded(text)
  return (text:gsub("[^!-$&-{}~]", function(c) return string.format("%%%02X", c:byte()) end))
end

local function decoded(text)
  return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

local function identity(handle)
  local found = handle:connectionStreamInfo():dynamicMetadata():get("envoy.filters.listener.proxy_protocol")
  return found and found["run"]
end

function envoy_on_request(handle)
  local headers = handle:headers()
  if (headers:get(":path") or ""):sub(1, 7) == "/files/" then return end -- plain HTTP, for the filestore
  local words, names, keyed = {}, {}, false
  for name, value in pairs(headers) do
    if name:byte() ~= 58 then -- ":"
      if not KEPT[name] then names[#names + 1] = name end
      if nested and KEYS[name] and is_key(name, value) then keyed = true end
      if not dropped(name) then words[#words + 1] = encoded(name .. ":" .. value) end
    end
  end
  local correlation = headers:get("x-correlation-id")
  for _, name in ipairs(names) do headers:remove(name) end
  local method, target = headers:get(":method"), headers:get(":path") or "/" -- CONNECT has none
  local path, query = target:match("^([^?]*)%??(.*)$")
  headers:add("x-runmesh-head", table.concat(words, "|"))
  -- For answers of Envoy's own, which see no more of the request than this, and for refusals, which see the metadata.
  if correlation then headers:add("x-runmesh-correlation", encoded(correlation:sub(1, 200))) end
  local trace = headers:get("traceparent")
  local api = path:sub(1, 8) == "/api/v1/" and "yes" or ""
  if correlation or trace or method == "HEAD" or api ~= "" then
    local sent = {correlation = encoded((correlation or ""):sub(1, 200)), trace = encoded((trace or ""):sub(1, 56)), method = method, api = api}
    handle:streamInfo():dynamicMetadata():set("runmesh", "sent", sent)
  end
  headers:add("x-runmesh-host", encoded(headers:get(":authority") or ""))
  headers:add("x-runmesh-method", method)
  headers:add("x-runmesh-path", encoded(path))
  headers:add("x-runmesh-query", encoded(query))
  if nested then
    headers:add("x-runmesh-run", identity(handle) or "none")
    if keyed then headers:add("x-runmesh-keyed", "yes") end
  end
  -- Whatever it was, application/grpc included, which would pass the transcoder by; the edge refuses that one.
  headers:replace("content-type", "application/octet-stream")
  -- The transcoder only chooses the rpc: it gets the path's shape, with nothing to decode and nothing to bind.
  headers:replace(":path", (path:gsub("[^%w/_.~-]", "~")))
  if method == "HEAD" then headers:replace(":method", "GET") end
end

-- Envoy's own answer. local_reply_config has made it ours, with a fresh UUID in x-request-id and what the caller sent
-- in the other two; these are made of the first where there is nothing.
local function complete(headers)
  local id, trace = headers:get("x-request-id") or "", headers:get("traceparent") or ""
  local hex = id:gsub("^req_", ""):gsub("-", "")
  if #hex ~= 32 then return end
  local correlation = decoded(headers:get("x-correlation-id") or ""):gsub("[^ -~]", ""):sub(1, 200)
  headers:replace("x-correlation-id", correlation ~= "" and correlation or id)
  if #trace ~= 55 or not trace:match("^%x%x%-%x+%-%x+%-%x%x$") then
    headers:replace("traceparent", "00-" .. hex .. "-" .. hex:sub(1, 16) .. "-00")
  end
end

-- What the edge's gRPC answers in our stead: it takes no more calls (1, 14), or failed below our own code. A stopping
-- edge refuses so what was on its way when it stopped; what it has taken it answers itself.
local function refused(handle, headers)
  local status, code, detail = "500", "runtime_error", "the runtime failed; it is in its log"
  local grpc = headers:get("grpc-status")
  if grpc == "1" or grpc == "14" then
    status, code, detail = "503", "unavailable", "the runtime isn't there, or is starting; try again"
    headers:replace("retry-after", "1")
  end
  headers:remove("grpc-status")
  headers:remove("grpc-message")
  headers:replace(":status", status)
  headers:replace("content-type", "application/json")
  headers:replace("error-origin", "runtime")
  local random = assert(io.open("/dev/urandom", "rb"))
  local hex = random:read(16):gsub(".", function(c) return string.format("%02x", c:byte()) end)
  random:close()
  local sent = (handle:streamInfo():dynamicMetadata():get("runmesh") or {}).sent or {}
  headers:replace("x-request-id", "req_" .. hex:gsub("^(%x%x%x%x%x%x%x%x)(%x%x%x%x)(%x%x%x%x)(%x%x%x%x)", "%1-%2-%3-%4-"))
  headers:replace("x-correlation-id", sent.correlation or "")
  headers:replace("traceparent", sent.trace or "")
  complete(headers)
  if sent.method ~= "HEAD" then
    local api = sent.api == "yes" and string.format('"success":false,"error":"%s",', detail) or ""
    handle:body(true):setBytes(string.format('{%s"detail":"%s","code":"%s"}', api, detail, code))
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local head = headers:get("content-type") or ""
  -- The route to the edge adds x-runmesh-edge: what others answer (a file with a content type of its owner's) is no head.
  if head:sub(1, 17) ~= "x-runmesh-answer|" or not headers:get("x-runmesh-edge") then
    headers:remove("x-runmesh-edge")
    if (headers:get("grpc-status") or "0") ~= "0" then return refused(handle, headers) end
    return complete(headers)
  end
  local names = {}
  for name in pairs(headers) do
    if name:byte() ~= 58 then names[#names + 1] = name end
  end
  for _, name in ipairs(names) do headers:remove(name) end
  local status
  for word in head:sub(18):gmatch("[^|]+") do
    if not status then
      status = word
    else
      local name, value = decoded(word):match("^([^:]+):(.*)$")
      headers:add(name, value)
    end
  end
  headers:replace(":status", status)
end
