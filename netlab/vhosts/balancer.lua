-- Which endpoint a request goes to. The endpoints come from the controller while nginx runs, so
-- that no change of theirs ends a connection.
--
-- A request's $backend names where its shares go, "web 9;web-next 1" or "web"; "-" is nobody.
-- Endpoints take turns. One that does not accept is followed by the next, up to TRIES in all.

local peers = require "ngx.balancer"

local M = {}
local TRIES = 3
local endpoints = ngx.shared.endpoints
local version, backends, turns, shares = nil, {}, {}, {}
local born = 0

local function read(text)
    local found = {}
    for line in text:gmatch("[^\n]+") do
        local name, list = line:match("^(%S+) ?(.*)$")
        local each = {}
        for address, port in list:gmatch("(%S+):(%d+)") do
            each[#each + 1] = { address, tonumber(port) }
        end
        found[name] = each
    end
    return found
end

local function known()
    local newest = endpoints:get("version")
    if newest ~= version then
        backends, version = read(endpoints:get("text") or ""), newest
    end
    return backends
end

local function chosen(text)
    local list = shares[text]
    if not list then
        list = { total = 0 }
        for name, weight in text:gmatch("([^ ;]+) ?(%d*)") do
            weight = tonumber(weight) or 1
            list[#list + 1] = { name, weight }
            list.total = list.total + weight
        end
        shares[text] = list
    end
    if not list[2] then
        return list[1] and list[1][1]
    end
    local at = math.random() * list.total
    for _, one in ipairs(list) do
        at = at - one[2]
        if at < 0 then
            return one[1]
        end
    end
    return list[#list][1]
end

function M.begin()
    born = endpoints:get("farewells") or 0
    math.randomseed(ngx.worker.pid() * 65537 + ngx.now() * 1000)
end

-- A worker that ends closes what waits for a next request, which may be on its way by then. So the
-- answers of one that is to end say that their connection is closed, which nginx does where its
-- configuration says so: in a location of its own. The client opens another in its own time.
function M.admit()
    if (endpoints:get("farewells") or 0) > born then
        return ngx.exec("@part")
    end
    return M.choose()
end

-- Before a request is sent on: to whom it goes, or that it goes to nobody.
function M.choose()
    local name = chosen(ngx.var.backend)
    if not name then
        return
    end
    if name == "-" then
        return ngx.exit(ngx.HTTP_INTERNAL_SERVER_ERROR)
    end
    local list = known()[name]
    if not list or #list == 0 then
        return ngx.exit(ngx.HTTP_SERVICE_UNAVAILABLE)
    end
    ngx.ctx.name, ngx.ctx.list = name, list
end

function M.balance()
    local ctx = ngx.ctx
    local list, name = ctx.list, ctx.name
    if not list then
        return ngx.exit(ngx.HTTP_INTERNAL_SERVER_ERROR)
    end
    local turn
    if ctx.turn then
        turn = ctx.turn + 1 -- the one before has failed
    else
        turn = turns[name] or math.random(#list)
        turns[name] = turn % #list + 1
        local more = math.min(#list, TRIES) - 1
        if more > 0 then
            peers.set_more_tries(more)
        end
    end
    ctx.turn = turn
    local peer = list[(turn - 1) % #list + 1]
    local fine, problem = peers.set_current_peer(peer[1], peer[2])
    if not fine then
        ngx.log(ngx.ERR, "endpoint ", peer[1], ":", peer[2], ": ", problem)
        return ngx.exit(ngx.HTTP_INTERNAL_SERVER_ERROR)
    end
end

-- Have the workers there are part from their clients.
function M.farewell()
    endpoints:incr("farewells", 1, 0)
    ngx.say("ok")
end

-- GET shows the endpoints of all backends, POST replaces them.
function M.configure()
    if ngx.req.get_method() == "POST" then
        ngx.req.read_body()
        local fine, problem = endpoints:set("text", ngx.req.get_body_data() or "")
        if not fine then
            ngx.status = ngx.HTTP_INTERNAL_SERVER_ERROR
            ngx.say(problem)
            return
        end
        endpoints:incr("version", 1, 0)
        ngx.status = ngx.HTTP_CREATED
    else
        ngx.print(endpoints:get("text") or "")
    end
end

-- Ready once it was told the endpoints.
function M.health()
    if endpoints:get("version") then
        ngx.say("ok")
    else
        ngx.exit(ngx.HTTP_SERVICE_UNAVAILABLE)
    end
end

return M
