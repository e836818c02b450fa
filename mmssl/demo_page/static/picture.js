/** The image with its masks and prompts, as an SVG in pixels of the image. */

const SVG = 'http://www.w3.org/2000/svg';
// movement of the pointer, in pixels of the screen, up to which it is a click
const CLICK_PIXELS = 4;
const MAX_ZOOM = 16;
const ZOOM_STEP = 1.4;
const MARKER_SIZE = 7;
const TEXT_SIZE = 15;
const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};

function create(name, attributes, parent) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) {
    element.setAttribute(key, value);
  }
  parent.append(element);
  return element;
}

export class Picture {
  /**
   * @param {SVGSVGElement} svg
   * @param {function(): string} mode - returns 'object', 'background' or 'box'
   * @param {function(number, number, string)} onPoint - x, y, and 'object' or 'background'
   * @param {function(number, number, number, number)} onBox - two opposite corners
   */
  constructor(svg, mode, onPoint, onBox) {
    this.svg = svg;
    this.mode = mode;
    this.onPoint = onPoint;
    this.onBox = onBox;
    this.size = null;
    this.view = null;
    this.corner = null;
    this.cursor = null;
    this.press = null;
    this.image = create('image', {}, svg);
    this.overlays = create('g', {}, svg);
    this.markers = create('g', {}, svg);
    this.draft = create('g', {}, svg);
    svg.addEventListener('pointerdown', (event) => this.pressed(event));
    svg.addEventListener('pointermove', (event) => this.moved(event));
    svg.addEventListener('pointerup', (event) => this.released(event));
    svg.addEventListener('pointercancel', () => { this.press = null; });
    svg.addEventListener('contextmenu', (event) => event.preventDefault());
    svg.addEventListener('wheel', (event) => this.wheel(event), {passive: false});
    svg.addEventListener('keydown', (event) => this.key(event));
    svg.addEventListener('blur', () => { this.cursor = null; this.drawDraft(); });
    new ResizeObserver(() => this.drawMarkers()).observe(svg);
    this.points = [];
    this.box = null;
    this.names = [];
  }

  /** Show another image of a size in pixels; its masks and prompts come with show(). */
  open(url, width, height) {
    this.size = {width, height};
    this.image.setAttribute('href', url);
    for (const [key, value] of Object.entries({width, height, preserveAspectRatio: 'none'})) {
      this.image.setAttribute(key, value);
    }
    this.corner = null;
    this.cursor = null;
    this.wholeImage();
  }

  /** Show masks (addresses of pictures), points, a box and names. */
  show({overlays, points, box, names}) {
    const old = [...this.overlays.children];
    for (const [index, url] of overlays.entries()) {
      const {width, height} = this.size;
      const attributes = {href: url, width, height, preserveAspectRatio: 'none', class: 'mask'};
      if (old[index]) {
        Object.entries(attributes).forEach(([key, value]) => old[index].setAttribute(key, value));
      } else {
        create('image', attributes, this.overlays);
      }
    }
    old.slice(overlays.length).forEach((element) => element.remove());
    this.points = points;
    this.box = box;
    this.names = names;
    this.corner = null;
    this.drawMarkers();
  }

  /** Forget the first corner of a box. */
  cancel() {
    this.corner = null;
    this.drawDraft();
  }

  wholeImage() {
    if (!this.size) {
      return;
    }
    this.setView(0, 0, this.size.width, this.size.height);
  }

  zoom(factor, x, y) {
    if (!this.size) {
      return;
    }
    const [left, top, width, height] = this.view;
    const scale = Math.min(MAX_ZOOM, Math.max(1, (this.size.width / width) * factor));
    const newWidth = this.size.width / scale;
    const newHeight = this.size.height / scale;
    this.setView(x - ((x - left) * newWidth) / width, y - ((y - top) * newHeight) / height, newWidth, newHeight);
  }

  /** Zoom at the cross of the keyboard, or at the center. */
  zoomIn() { this.zoomHere(ZOOM_STEP); }

  zoomOut() { this.zoomHere(1 / ZOOM_STEP); }

  zoomHere(factor) {
    if (this.size) {
      const {x, y} = this.cursor ?? this.center();
      this.zoom(factor, x, y);
    }
  }

  center() {
    const [left, top, width, height] = this.view;
    return {x: left + width / 2, y: top + height / 2};
  }

  setView(left, top, width, height) {
    const x = Math.min(Math.max(0, left), this.size.width - width);
    const y = Math.min(Math.max(0, top), this.size.height - height);
    this.view = [x, y, width, height];
    this.svg.setAttribute('viewBox', this.view.join(' '));
    this.drawMarkers();
  }

  /** Pixels of the image per pixel of the screen. */
  scale() {
    const matrix = this.svg.getScreenCTM();
    return matrix ? 1 / matrix.a : 1;
  }

  /** The place of an event in pixels of the image, null outside of it. */
  place(event, clamp = false) {
    if (!this.size) {
      return null;
    }
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.svg.getScreenCTM().inverse());
    const x = Math.min(Math.max(0, point.x), this.size.width - 0.01);
    const y = Math.min(Math.max(0, point.y), this.size.height - 0.01);
    return clamp || (x === point.x && y === point.y) ? {x, y} : null;
  }

  pressed(event) {
    const start = this.place(event);
    if (!start || !event.isPrimary) {
      return;
    }
    this.svg.setPointerCapture(event.pointerId);
    const isBox = this.mode() === 'box' && event.button === 0;
    this.press = {start, clientX: event.clientX, clientY: event.clientY, view: this.view, isBox, moved: false};
  }

  moved(event) {
    if (!this.press) {
      if (this.corner) {
        this.drawDraft(this.place(event, true));
      }
      return;
    }
    const dx = event.clientX - this.press.clientX;
    const dy = event.clientY - this.press.clientY;
    this.press.moved ||= Math.hypot(dx, dy) > CLICK_PIXELS;
    if (!this.press.moved) {
      return;
    }
    if (this.press.isBox) {
      this.corner = this.press.start;
      this.drawDraft(this.place(event, true));
    } else {
      const [left, top, width, height] = this.press.view;
      this.setView(left - dx * this.scale(), top - dy * this.scale(), width, height);
    }
  }

  released(event) {
    const press = this.press;
    this.press = null;
    if (!press) {
      return;
    }
    if (press.isBox) {
      this.addCorner(this.place(event, true), press.moved);
    } else if (!press.moved) {
      const beside = event.button === 2 || event.shiftKey;
      this.onPoint(press.start.x, press.start.y, beside ? 'background' : this.mode());
    }
  }

  /** A first corner waits for the opposite one; a dragged box has both. */
  addCorner(place, dragged = false) {
    const first = this.corner;
    if (!first || (!dragged && first.x === place.x && first.y === place.y)) {
      this.corner = place;
      this.drawDraft(place);
      return;
    }
    this.corner = null;
    this.drawDraft();
    this.onBox(first.x, first.y, place.x, place.y);
  }

  wheel(event) {
    const place = this.place(event, true);
    if (place) {
      event.preventDefault();
      this.zoom(event.deltaY < 0 ? ZOOM_STEP : 1 / ZOOM_STEP, place.x, place.y);
    }
  }

  key(event) {
    if (!this.size || event.ctrlKey || event.metaKey || event.altKey) {
      return;
    }
    const at = this.cursor ?? this.center();
    if (event.key in ARROWS) {
      const [dx, dy] = ARROWS[event.key];
      const step = (event.shiftKey ? 40 : 8) * this.scale();
      this.cursor = {
        x: Math.min(Math.max(0, at.x + dx * step), this.size.width - 0.01),
        y: Math.min(Math.max(0, at.y + dy * step), this.size.height - 0.01),
      };
      this.drawDraft(this.corner ? this.cursor : null);
    } else if (event.key === ' ') {
      this.cursor = at;
      if (this.mode() === 'box') {
        this.addCorner(at);
      } else {
        this.onPoint(at.x, at.y, this.mode());
      }
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  drawMarkers() {
    if (!this.size) {
      return;
    }
    const scale = this.scale();
    this.markers.replaceChildren();
    if (this.box) {
      this.drawRectangle(this.markers, this.box);
    }
    for (const {x, y, object} of this.points) {
      const kind = object ? 'object' : 'background';
      create('circle', {cx: x, cy: y, r: MARKER_SIZE * scale, class: `marker ${kind}`}, this.markers);
    }
    for (const {x, y, text} of this.names) {
      const label = create('text', {x, y, 'font-size': TEXT_SIZE * scale, class: 'name-text'}, this.markers);
      label.setAttribute('stroke-width', 3 * scale);
      label.textContent = text;
    }
    this.drawDraft();
  }

  /** Draw the box between its first corner and a place, and the cross of the keyboard. */
  drawDraft(place = null) {
    this.draft.replaceChildren();
    if (this.corner) {
      const other = place ?? this.corner;
      const box = [
        Math.min(this.corner.x, other.x), Math.min(this.corner.y, other.y),
        Math.max(this.corner.x, other.x), Math.max(this.corner.y, other.y),
      ];
      this.drawRectangle(this.draft, box);
      const size = {r: 4 * this.scale(), class: 'marker object'};
      create('circle', {cx: this.corner.x, cy: this.corner.y, ...size}, this.draft);
    }
    if (this.cursor) {
      const {x, y} = this.cursor;
      const arm = 14 * this.scale();
      create('line', {x1: x - arm, y1: y, x2: x + arm, y2: y, class: 'cross'}, this.draft);
      create('line', {x1: x, y1: y - arm, x2: x, y2: y + arm, class: 'cross'}, this.draft);
    }
  }

  drawRectangle(parent, [left, top, right, bottom]) {
    create('rect', {x: left, y: top, width: right - left, height: bottom - top, class: 'box-marker'}, parent);
  }
}
