// The masked autoencoder of mae_lib.model.autoencoder in plain loops, for one image: matrices are
// flat Float64Arrays, a row a token; weights are [out, in] as PyTorch has them.
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));

// Half precision, little-endian, to float32, by a table of all 65,536 values.
let values;
function halves(text) {
  values = values || Float64Array.from({ length: 1 << 16 }, (_, k) => {
    const exponent = k >> 10 & 31, fraction = (k & 1023) / 1024;
    return (k >> 15 ? -1 : 1)
      * (exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction);
  });
  const raw = bytes(text);
  return Float64Array.from({ length: raw.length / 2 }, (_, k) =>
    values[raw[2 * k + 1] << 8 | raw[2 * k]]);
}

// Parameters by name, from their shapes in order and their values one after the other.
function parameters(shapes, values) {
  const found = {};
  let start = 0;
  for (const name in shapes) {
    const size = shapes[name].reduce((a, b) => a * b, 1);
    found[name] = values.subarray(start, start += size);
  }
  return found;
}

function linear(w, name, x, n) {
  const weight = w[name + ".weight"], bias = w[name + ".bias"];
  const outs = bias.length, ins = weight.length / outs, y = new Float64Array(n * outs);
  for (let i = 0; i < n; i++) {
    for (let o = 0; o < outs; o += 4) { // four outputs at once: widths are multiples of four
      let a = 0, b = 0, c = 0, d = 0, one = o * ins, two = one + ins, three = two + ins;
      for (let k = i * ins, last = k + ins, four = three + ins; k < last; k++) {
        const value = x[k];
        a += value * weight[one++];
        b += value * weight[two++];
        c += value * weight[three++];
        d += value * weight[four++];
      }
      const at = i * outs + o;
      y[at] = a + bias[o];
      y[at + 1] = b + bias[o + 1];
      y[at + 2] = c + bias[o + 2];
      y[at + 3] = d + bias[o + 3];
    }
  }
  return y;
}

function normed(w, name, x, n, eps) {
  const weight = w[name + ".weight"], bias = w[name + ".bias"], width = weight.length;
  const y = new Float64Array(x.length);
  for (let i = 0; i < n; i++) {
    let mean = 0, square = 0;
    for (let k = 0; k < width; k++) mean += x[i * width + k] / width;
    for (let k = 0; k < width; k++) square += (x[i * width + k] - mean) ** 2 / width;
    const scale = 1 / Math.sqrt(square + eps);
    for (let k = 0; k < width; k++)
      y[i * width + k] = (x[i * width + k] - mean) * scale * weight[k] + bias[k];
  }
  return y;
}

// The Gauss error function to 1.2e-7 (Numerical Recipes' rational Chebyshev fit).
function erf(x) {
  const t = 1 / (1 + Math.abs(x) / 2);
  const c = 1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806 + t * (0.27886807
    + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277)))))));
  const tail = t * Math.exp(-x * x - 1.26551223 + t * c);
  return x < 0 ? tail - 1 : 1 - tail;
}

// GELU of every value, in place: x Φ(x), by lines between points 1/512 apart, off by 2e-7 at most.
const NORMAL = Float64Array.from({ length: 8194 }, (_, k) => (1 + erf((k / 512 - 8) / Math.SQRT2)) / 2);
function gelu(x) {
  for (let k = 0; k < x.length; k++) {
    const value = x[k], at = (Math.min(7.99, Math.max(-8, value)) + 8) * 512, low = at | 0;
    x[k] = value * (NORMAL[low] + (at - low) * (NORMAL[low + 1] - NORMAL[low]));
  }
}

// softmax(q kᵀ / √d) of one head, [n × n], from the rows q, k, v of every token.
function attended(qkv, n, width, each, head) {
  const map = new Float64Array(n * n), row = 3 * width, scale = 1 / Math.sqrt(each);
  for (let i = 0; i < n; i++) {
    let most = -Infinity, sum = 0;
    for (let j = 0; j < n; j++) {
      const q = i * row + head * each, key = j * row + width + head * each;
      let dot = 0;
      for (let k = 0; k < each; k++) dot += qkv[q + k] * qkv[key + k];
      map[i * n + j] = dot * scale;
      if (dot * scale > most) most = dot * scale;
    }
    for (let j = i * n; j < i * n + n; j++) sum += map[j] = Math.exp(map[j] - most);
    for (let j = i * n; j < i * n + n; j++) map[j] /= sum;
  }
  return map;
}

// Values mixed by a head's attention, into their place in each row of y.
function mix(map, qkv, n, width, each, head, y) {
  for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) {
    const value = j * 3 * width + 2 * width + head * each, to = i * width + head * each;
    const share = map[i * n + j];
    for (let k = 0; k < each; k++) y[to + k] += share * qkv[value + k];
  }
}

function add(x, y) {
  for (let k = 0; k < x.length; k++) x[k] += y[k];
}

// A transformer block, in place; its attention, a map a head, is returned.
function block(w, name, x, n, heads, eps) {
  const width = x.length / n, each = width / heads, mixed = new Float64Array(x.length);
  const qkv = linear(w, name + ".attn.qkv", normed(w, name + ".norm1", x, n, eps), n);
  const maps = count(heads, head => attended(qkv, n, width, each, head));
  maps.forEach((map, head) => mix(map, qkv, n, width, each, head, mixed));
  add(x, linear(w, name + ".attn.proj", mixed, n));
  const wide = linear(w, name + ".mlp.fc1", normed(w, name + ".norm2", x, n, eps), n);
  gelu(wide);
  add(x, linear(w, name + ".mlp.fc2", wide, n));
  return maps;
}

// sincos_positions: half of the width for the column, half for the row, sines then cosines.
const places = {};
function positions(width, side) {
  const quarter = width / 4;
  return places[width] = places[width] || count(side * side, p => Float64Array.from({ length: width }, (_, k) => {
    const along = k < 2 * quarter ? p % side : Math.floor(p / side);
    const angle = along * 1e-4 ** (k % quarter / quarter);
    return Math.floor(k / quarter) % 2 ? Math.cos(angle) : Math.sin(angle);
  }));
}

// The encoder: pixels [side², patch values] and the visible patches → tokens, [CLS] first, and the
// last block's attention.
function encode(w, size, pixels, visible) {
  const n = visible.length + 1, place = positions(size.width, size.side);
  const given = new Float64Array(visible.length * pixels[0].length);
  visible.forEach((p, i) => given.set(pixels[p], i * pixels[0].length));
  const x = new Float64Array(n * size.width), embedded = linear(w, "embed", given, n - 1);
  x.set(w.cls_token);
  visible.forEach((p, i) => {
    for (let k = 0; k < size.width; k++)
      x[(i + 1) * size.width + k] = embedded[i * size.width + k] + place[p][k];
  });
  let maps;
  for (let layer = 0; layer < size.depth; layer++)
    maps = block(w, "encoder." + layer, x, n, size.heads, size.norm_eps);
  return { tokens: normed(w, "encoder_norm", x, n, size.norm_eps), maps };
}

// The decoder: predicted pixels of the hidden patches, a row each, in their order.
function decode(w, size, tokens, visible, hidden) {
  const seen = visible.length + 1, n = seen + hidden.length, width = size.decoder_width;
  const place = positions(width, size.side), x = new Float64Array(n * width);
  x.set(linear(w, "to_decoder", tokens, seen));
  [...visible, ...hidden].forEach((p, i) => {
    for (let k = 0; k < width; k++) x[(i + 1) * width + k]
      = (i + 1 < seen ? x[(i + 1) * width + k] : w.mask_token[k]) + place[p][k];
  });
  for (let layer = 0; layer < size.decoder_depth; layer++)
    block(w, "decoder." + layer, x, n, size.decoder_heads, size.norm_eps);
  const last = x.subarray(seen * width);
  return linear(w, "head", normed(w, "decoder_norm", last, hidden.length, size.norm_eps),
    hidden.length);
}
