/** The labelling page: masks of one image after the other become labels. */

import {Picture} from './picture.js';
import {connectKeys, connectZoom, mode, nextMode, showMasks, zoomKeys} from './prompts.js';
import {address, attempt, enter, post, showProblem, showStatus} from './server.js';

const API = 'api/label';
const ALIVE_MILLISECONDS = 60_000;
const KEYS = 9;
const classInput = document.getElementById('class');
const buttons = {
  accept, finish: () => act('finish'), undo: () => act('undo'), clear,
  back: () => act('back'), skip: () => act('skip'), 'accept-all': () => act('accept-all'),
};
// what is needed without an image too
const ALWAYS = ['back'];

let state = null;
let shownName = null;
// one change at a time, in the order of keys and clicks
let queue = Promise.resolve();

const picture = new Picture(
  document.getElementById('picture'),
  mode,
  (x, y, kind) => act('click', {x, y, mode: kind}),
  (x1, y1, x2, y2) => act('box', {x1, y1, x2, y2}),
);

function show(answer) {
  state = answer;
  const {image, progress} = state;
  showProgress(progress, image);
  if (image && image.name !== shownName) {
    picture.open(address(`${API}/picture`, image.name), image.width, image.height);
    picture.svg.setAttribute('aria-label', `Image ${image.name} to click on`);
  }
  shownName = image?.name ?? null;
  picture.svg.toggleAttribute('hidden', !image);
  if (image) {
    picture.show(state);
  }
  showMasks(state.masks ?? [], state.chosen, (index) => act('choose', {index}));
  showClasses(state.classes);
  showList('objects', (state.objects ?? []).map(objectRow), 'none yet');
  showList('suggestions', (state.suggestions ?? []).map(suggestionRow));
  document.getElementById('suggested').hidden = !state.suggestions?.length;
  for (const id of Object.keys(buttons)) {
    document.getElementById(id).disabled = !image && !ALWAYS.includes(id);
  }
  showStatus(state.finished ? `${state.note} (finished before)` : state.note);
}

function showProgress({total, finished, unreadable, others}, image) {
  document.getElementById('title').textContent = image ? image.name : 'No image left';
  const busy = others ? `, ${others} with others` : '';
  document.getElementById('progress-text').textContent = `${finished} of ${total} images${busy}`;
  const bar = document.getElementById('progress');
  bar.max = total;
  bar.value = finished;
  document.getElementById('empty').hidden = image !== null;
  const left = total - finished - unreadable.length;
  document.querySelector('#empty strong').textContent =
    left > 0 ? 'Others are labelling the last images' : 'All images are labelled';
  document.getElementById('unreadable').textContent =
    unreadable.length ? `Cannot be read: ${unreadable.join(', ')}` : '';
}

function showClasses(classes) {
  const names = document.getElementById('class-names');
  names.replaceChildren(...classes.map(({name}) => new Option(name)));
  document.getElementById('chips').replaceChildren(...classes.map(({name, color}, index) => {
    const chip = document.createElement('button');
    chip.className = 'chip';
    chip.type = 'button';
    chip.setAttribute('aria-pressed', String(name === classInput.value));
    chip.append(swatch(color), name);
    if (index < KEYS) {
      const key = document.createElement('kbd');
      key.textContent = index + 1;
      chip.append(key);
    }
    chip.addEventListener('click', () => chooseClass(name));
    return chip;
  }));
}

function chooseClass(name) {
  classInput.value = name;
  showClasses(state.classes);
}

/** A small square in a color, as an SVG, since styles are kept in the style sheet. */
function swatch(color) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('class', 'swatch');
  svg.setAttribute('viewBox', '0 0 1 1');
  svg.setAttribute('aria-hidden', 'true');
  const rect = document.createElementNS('http://www.w3.org/2000/svg', 'rect');
  rect.setAttribute('width', 1);
  rect.setAttribute('height', 1);
  rect.setAttribute('fill', color);
  svg.append(rect);
  return svg;
}

function showList(id, rows, empty = '') {
  const list = document.getElementById(id);
  if (!rows.length && empty) {
    const row = document.createElement('li');
    row.textContent = empty;
    rows.push(row);
  }
  list.replaceChildren(...rows);
}

function objectRow({id, class: name, color}, index) {
  const row = document.createElement('li');
  const select = document.createElement('select');
  select.setAttribute('aria-label', `class of object ${index + 1}`);
  select.append(...state.classes.map((each) => new Option(each.name, each.name, false, each.name === name)));
  select.addEventListener('change', () => act('rename', {id, class: select.value}));
  row.append(swatch(color), select, smallButton('Remove', `object ${index + 1}`, () => act('remove', {id})));
  return row;
}

function suggestionRow({key, class: name, score}, index) {
  const row = document.createElement('li');
  const text = document.createElement('span');
  text.textContent = score === null ? name : `${name}, ${Math.round(100 * Math.min(1, Math.max(0, score)))} %`;
  row.append(
    text,
    smallButton('Accept', `suggestion ${index + 1}`, () => act('accept-suggestion', {key})),
    smallButton('Discard', `suggestion ${index + 1}`, () => act('discard-suggestion', {key})),
  );
  return row;
}

function smallButton(text, what, onClick) {
  const button = document.createElement('button');
  button.type = 'button';
  button.className = 'button small';
  button.textContent = text;
  button.setAttribute('aria-label', `${text} ${what}`);
  button.addEventListener('click', onClick);
  return button;
}

function act(name, data = {}) {
  queue = queue.then(async () => {
    const answer = await attempt(() => post(`${API}/${name}`, data), start);
    if (answer) {
      show(answer);
    } else {
      picture.cancel();
    }
  });
  return queue;
}

function accept() {
  if (classInput.value.trim()) {
    act('accept', {class: classInput.value});
  } else {
    showProblem('Name the class first.');
    classInput.focus();
  }
}

function clear() {
  picture.cancel();
  act('clear');
}

function nextMask() {
  if (state?.masks?.length > 1) {
    act('choose', {index: (state.chosen + 1) % state.masks.length});
  }
}

function ofFirstSuggestion(name) {
  const [first] = state?.suggestions ?? [];
  if (first) {
    act(name, {key: first.key});
  }
}

function connect() {
  for (const [id, action] of Object.entries(buttons)) {
    document.getElementById(id).addEventListener('click', action);
  }
  document.getElementById('modes').addEventListener('change', () => picture.cancel());
  classInput.addEventListener('input', () => showClasses(state?.classes ?? []));
  classInput.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' || event.key === 'Escape') {
      event.preventDefault();
      picture.svg.focus();
    }
  });
  const keys = {
    enter: accept, n: buttons.finish, z: buttons.undo, escape: clear, b: buttons.back, s: buttons.skip,
    x: nextMode, m: nextMask, c: () => classInput.focus(),
    d: () => ofFirstSuggestion('discard-suggestion'),
    a: (event) => (event.shiftKey ? act('accept-all') : ofFirstSuggestion('accept-suggestion')),
  };
  for (let digit = 1; digit <= KEYS; digit += 1) {
    keys[digit] = () => state?.classes[digit - 1] && chooseClass(state.classes[digit - 1].name);
  }
  connectZoom(picture);
  connectKeys({...keys, ...zoomKeys(picture)});
  setInterval(() => attempt(() => post(`${API}/alive`), start), ALIVE_MILLISECONDS);
}

/** Enter as a new visitor, at first or after the server was started again. */
async function start() {
  const answer = await attempt(() => enter(`${API}/visit`));
  if (answer) {
    shownName = null;
    if (!classInput.value && answer.state.classes.length) {
      classInput.value = answer.state.classes[0].name;
    }
    show(answer.state);
  }
}

showMasks([], 0, () => {});
connect();
start();
