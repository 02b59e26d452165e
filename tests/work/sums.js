// sums.js - run by node with its compilers and without, which must print the same.
let seed = 12345;
const rnd = () => (seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff);
const fold = (h, v) => (Math.imul(h, 33) ^ v) | 0;

let h = 1;
for (let i = 0; i < 2000000; i++) h = fold(h, rnd() + i);
console.log("integers", h);

let x = 0.5, s = 0;
for (let i = 1; i < 2000000; i++) {
	x = 3.9 * x * (1 - x);
	s += Math.sqrt(x) / i;
}
console.log("floats", s);

const n = 120, a = new Float64Array(n * n).map(() => (rnd() % 1000) / 8);
let t = 0;
for (let i = 0; i < n; i++)
	for (let j = 0; j < n; j++) {
		let c = 0;
		for (let k = 0; k < n; k++) c += a[i * n + k] * a[k * n + j];
		t += c % 97;
	}
console.log("matrix", t);

const words = Array.from({ length: 40000 }, () => rnd().toString(16)).sort();
const counts = new Map();
for (const w of words) counts.set(w.slice(0, 2), (counts.get(w.slice(0, 2)) || 0) + 1);
h = 7;
for (const c of words.join(" ").replace(/([a-f])(\d)/g, "$2$1")) h = fold(h, c.charCodeAt(0));
console.log("strings", h, JSON.stringify([...counts].sort()).length);

let big = 1n;
for (let i = 1n; i < 1500n; i++) big = (big * (i * 7919n + 1n)) % (2n ** 521n - 1n);
console.log("bigint", big.toString(36).slice(0, 40));

class Shape { constructor(k) { this.k = k; } area() { return this.k; } }
class Square extends Shape { area() { return this.k * this.k; } }
class Round extends Shape { area() { return this.k * 3.25; } }
const kinds = [Shape, Square, Round];
let sum = 0;
for (let i = 0; i < 600000; i++) sum += new kinds[rnd() % 3](i % 50).area();
console.log("objects", sum);

// Code made again and again, as a program that writes code does.
h = 3;
for (let i = 0; i < 300; i++) {
	const f = new Function("a", "b", `let r = ${i}; for (let k = 0; k < 300; k++) r = (r * ${i + 2} + a ^ b + k) | 0; return r;`);
	h = fold(h, f(i, h));
}
console.log("functions", h);
