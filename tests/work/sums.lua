-- sums.lua - run by luajit with its compiler and without, which must print the same.
local bit = require("bit")
local ffi = require("ffi")

local seed = 12345
local function rnd()
	seed = bit.band(seed * 1103 + 12345, 0x3fffffff)
	return seed
end

local function fold(h, v) return bit.bxor(bit.rol(h, 5), bit.tobit(v)) end

local h = 1
for i = 1, 3000000 do h = fold(h, rnd() + i) end
print("integers", h)

local x, s = 0.5, 0
for i = 1, 3000000 do
	x = 3.9 * x * (1 - x)
	s = s + math.sqrt(x) / i
end
print(string.format("floats %.17g", s))

local a = ffi.new("double[?]", 200 * 200)
for i = 0, 200 * 200 - 1 do a[i] = rnd() % 1000 / 8 end
local t = 0
for i = 0, 199 do
	for j = 0, 199 do
		local c = 0
		for k = 0, 199 do c = c + a[i * 200 + k] * a[k * 200 + j] end
		t = t + c % 97
	end
end
print(string.format("matrix %.17g", t))

local parts, counts = {}, {}
for i = 1, 60000 do parts[i] = string.format("%x", rnd()) end
for _, w in ipairs(parts) do counts[w:sub(1, 2)] = (counts[w:sub(1, 2)] or 0) + 1 end
table.sort(parts)
local keys = {}
for k, v in pairs(counts) do keys[#keys + 1] = k .. v end
table.sort(keys)
h = 7
for c in (table.concat(parts):sub(1, 300000) .. table.concat(keys)):gmatch(".") do h = fold(h, c:byte()) end
print("strings", h)

local function fib(n) if n < 2 then return n end return fib(n - 1) + fib(n - 2) end
print("fib", fib(30))

local meta = { __add = function(p, q) return setmetatable({ v = p.v + q.v }, getmetatable(p)) end }
local sum = setmetatable({ v = 0 }, meta)
for i = 1, 500000 do sum = sum + setmetatable({ v = i % 7 }, meta) end
print("objects", sum.v)

local co = coroutine.wrap(function() for i = 1, 300000 do coroutine.yield(i * i % 11) end end)
h = 0
for i = 1, 300000 do h = h + co() end
print("coroutines", h)
