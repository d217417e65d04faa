// Shows a picture, and paints what of it is to be drawn anew, by pointer or by keyboard.
import { toImageData } from "./png.js";

const SIZE = 320; // of the longer side, in pixels of the canvas

export class Editor {
  picture = null;
  known = null; // Uint8Array, 1 where a pixel is known; null where no mask is asked for
  brush = { size: 1, erase: true };
  #cell = { x: 0, y: 0 };
  #canvas;
  #say;
  #last = null;

  constructor(canvas, say) {
    this.#canvas = canvas;
    this.#say = say;
    canvas.addEventListener("pointerdown", (event) => this.#press(event));
    canvas.addEventListener("pointermove", (event) => this.#drag(event));
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, () => (this.#last = null));
    }
    canvas.addEventListener("keydown", (event) => this.#key(event));
    for (const change of ["focus", "blur"]) canvas.addEventListener(change, () => this.draw());
  }

  /** Shows a picture; with a mask when one is asked for, and then the lower half is erased. */
  show(picture, masked) {
    const other = this.picture?.width !== picture?.width || this.picture?.height !== picture?.height;
    this.picture = picture;
    if (picture && masked && (other || !this.known)) this.fill((x, y) => y < picture.height / 2);
    if (!masked) this.known = null;
    this.draw();
  }

  /** The mask as a picture, as it is now. */
  mask() {
    const { width, height } = this.picture;
    return { width, height, channels: 1, data: this.known.slice(), mask: true };
  }

  fill(isKnown) {
    const { width, height } = this.picture;
    const before = this.known;
    this.known = Uint8Array.from({ length: width * height }, (_, i) =>
      Number(isKnown(i % width, Math.floor(i / width), before?.[i])),
    );
    this.draw();
  }

  draw() {
    const canvas = this.#canvas;
    const masked = this.known !== null;
    canvas.setAttribute("role", masked ? "application" : "img");
    canvas.tabIndex = masked ? 0 : -1;
    if (masked) canvas.setAttribute("aria-roledescription", "mask editor");
    else canvas.removeAttribute("aria-roledescription");
    if (!this.picture) return;
    const { width, height } = this.picture;
    const scale = Math.max(1, Math.floor(SIZE / Math.max(width, height)));
    canvas.width = width * scale;
    canvas.height = height * scale;
    const small = new OffscreenCanvas(width, height);
    small.getContext("2d").putImageData(toImageData(this.picture), 0, 0);
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    if (!masked) return;
    const style = getComputedStyle(canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    context.fillStyle = colour("--erased");
    for (let i = 0; i < this.known.length; i++) {
      if (!this.known[i]) {
        context.fillRect((i % width) * scale, Math.floor(i / width) * scale, scale, scale);
      }
    }
    const lost = this.known.reduce((count, known) => count + !known, 0);
    canvas.setAttribute(
      "aria-label",
      `Picture, ${width} by ${height} pixels, ${lost} of ${width * height} erased`,
    );
    if (document.activeElement === canvas && canvas.matches(":focus-visible")) {
      const side = this.brush.size * scale;
      const [x, y] = [this.#cell.x * scale, this.#cell.y * scale];
      for (const [name, inset, line] of [["--accent", 1, 4], ["--on-accent", 1, 1.5]]) {
        context.strokeStyle = colour(name);
        context.lineWidth = line;
        context.strokeRect(x + inset, y + inset, side - 2 * inset, side - 2 * inset);
      }
    }
  }

  #paint(x, y, known) {
    const { width, height } = this.picture;
    const { size } = this.brush;
    for (let row = Math.max(0, y); row < Math.min(height, y + size); row++) {
      for (let column = Math.max(0, x); column < Math.min(width, x + size); column++) {
        this.known[row * width + column] = Number(known);
      }
    }
  }

  #pixel(event) {
    const box = this.#canvas.getBoundingClientRect();
    const middle = (this.brush.size - 1) / 2;
    return {
      x: Math.round(((event.clientX - box.left) / box.width) * this.picture.width - 0.5 - middle),
      y: Math.round(((event.clientY - box.top) / box.height) * this.picture.height - 0.5 - middle),
    };
  }

  #press(event) {
    if (!this.known || event.button !== 0) return;
    this.#canvas.setPointerCapture(event.pointerId);
    this.#last = this.#pixel(event);
    this.#paint(this.#last.x, this.#last.y, !this.brush.erase);
    this.draw();
  }

  #drag(event) {
    if (!this.#last) return;
    const next = this.#pixel(event);
    const [dx, dy] = [next.x - this.#last.x, next.y - this.#last.y];
    const steps = Math.max(Math.abs(dx), Math.abs(dy), 1);
    for (let i = 1; i <= steps; i++) {
      const x = Math.round(this.#last.x + (dx * i) / steps);
      const y = Math.round(this.#last.y + (dy * i) / steps);
      this.#paint(x, y, !this.brush.erase);
    }
    this.#last = next;
    this.draw();
  }

  #key(event) {
    if (!this.known) return;
    const cell = this.#cell;
    const { size } = this.brush;
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key in moves) {
      const [dx, dy] = moves[event.key];
      const move = (at, step, side) =>
        Math.min(Math.max(at - (at % size) + step * size, 0), Math.floor((side - 1) / size) * size);
      cell.x = move(cell.x, dx, this.picture.width);
      cell.y = move(cell.y, dy, this.picture.height);
      if (event.shiftKey) this.#paint(cell.x, cell.y, !this.brush.erase);
    } else if (event.key === " ") {
      this.#paint(cell.x, cell.y, !this.known[cell.y * this.picture.width + cell.x]);
    } else {
      return;
    }
    event.preventDefault();
    const known = this.known[cell.y * this.picture.width + cell.x];
    this.#say(`Row ${cell.y + 1}, column ${cell.x + 1}: ${known ? "kept" : "erased"}`);
    this.draw();
  }
}
