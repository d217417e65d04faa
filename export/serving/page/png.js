// Pictures, exact to the pixel: { width, height, channels, data }, data a Uint8Array in rows.
// A canvas alone knows RGBA only, and mixes the colours of what is transparent.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const COLOUR_TYPES = { 1: 0, 2: 4, 3: 2, 4: 6 };

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function chunk(name, content) {
  const bytes = new Uint8Array(12 + content.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, content.length);
  for (let i = 0; i < 4; i++) bytes[4 + i] = name.charCodeAt(i);
  bytes.set(content, 8);
  let crc = 0xffffffff;
  for (const byte of bytes.subarray(4, 8 + content.length)) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  view.setUint32(8 + content.length, ~crc >>> 0);
  return bytes;
}

async function deflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** A picture as a Blob of PNG, with a packet of XMP where there is one. */
export async function encode({ width, height, channels, data }, packet = null) {
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header[8] = 8;
  header[9] = COLOUR_TYPES[channels];
  const stride = width * channels;
  const lines = new Uint8Array(height * (stride + 1)); // each begins with its filter, none
  for (let y = 0; y < height; y++) lines.set(data.subarray(y * stride, (y + 1) * stride), y * (stride + 1) + 1);
  const text = packet ? [chunk("iTXt", new TextEncoder().encode(`XML:com.adobe.xmp\0\0\0\0\0${packet}`))] : [];
  const parts = [chunk("IHDR", header), ...text, chunk("IDAT", await deflate(lines)), chunk("IEND", [])];
  return new Blob([Uint8Array.from(SIGNATURE), ...parts], { type: "image/png" });
}

/** A Blob of any picture that the browser knows, as a picture of so many channels. */
export async function decode(blob, channels, size = null) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const { width, height } = size ?? bitmap;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  // Of another shape the middle is taken, whole in one direction.
  const scale = Math.min(bitmap.width / width, bitmap.height / height);
  const [w, h] = [width * scale, height * scale];
  context.drawImage(bitmap, (bitmap.width - w) / 2, (bitmap.height - h) / 2, w, h, 0, 0, width, height);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8Array(width * height * channels);
  for (let i = 0; i < width * height; i++) {
    const [r, g, b, a] = rgba.subarray(4 * i, 4 * i + 4);
    const grey = r === g && g === b ? r : Math.round(0.299 * r + 0.587 * g + 0.114 * b);
    data.set({ 1: [grey], 2: [grey, a], 3: [r, g, b], 4: [r, g, b, a] }[channels], i * channels);
  }
  return { width, height, channels, data };
}

/** A picture as ImageData, for a canvas. */
export function toImageData({ width, height, channels, data }) {
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    const pixel = data.subarray(i * channels, (i + 1) * channels);
    const [r, g, b, a] = channels < 3 ? [pixel[0], pixel[0], pixel[0], pixel[1]] : pixel;
    image.data.set([r, g, b, a ?? 255], 4 * i);
  }
  return image;
}

/** Pictures side by side, so many in a row. */
export function tile(pictures, columns) {
  const { width, height, channels } = pictures[0];
  const rows = Math.ceil(pictures.length / columns);
  const data = new Uint8Array(rows * height * columns * width * channels);
  pictures.forEach((picture, i) => {
    const [left, top] = [(i % columns) * width, Math.floor(i / columns) * height];
    for (let y = 0; y < height; y++) {
      const line = picture.data.subarray(y * width * channels, (y + 1) * width * channels);
      data.set(line, ((top + y) * columns * width + left) * channels);
    }
  });
  return { width: columns * width, height: rows * height, channels, data };
}
