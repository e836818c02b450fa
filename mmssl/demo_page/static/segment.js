/** The page that segments images by clicks and boxes. */

import {connectOpening} from './open.js';
import {Picture} from './picture.js';
import {connectKeys, connectZoom, mode, nextMode, showMasks, zoomKeys} from './prompts.js';
import {address, attempt, enter, post, showStatus, upload} from './server.js';

const API = 'api/segment';
const {available, detector} = document.body.dataset;
const buttons = {undo: 'undo', clear: 'clear', everything: 'everything', name: 'name'};

let state = null;
let version = 0;
// files may be dropped before the visit has begun
let ready = null;

const picture = new Picture(
  document.getElementById('picture'),
  mode,
  (x, y, kind) => act('click', {x, y, mode: kind}),
  (x1, y1, x2, y2) => act('box', {x1, y1, x2, y2}),
);

function show(answer, isNewImage = false) {
  state = answer;
  const {image} = state;
  document.getElementById('empty').hidden = image !== null;
  if (image && isNewImage) {
    version += 1;
    picture.open(address(`${API}/picture`, version), image.width, image.height);
    picture.svg.setAttribute('aria-label', `Image ${image.name} to click on`);
  }
  if (image) {
    picture.show({overlays: state.overlay ? [state.overlay] : [], ...state});
  }
  showMasks(state.masks, state.chosen, (index) => act('choose', {index}));
  showStatus(state.note);
  for (const id of Object.keys(buttons)) {
    document.getElementById(id).disabled = image === null;
  }
  showLink('save-png', 'masks.png');
  showLink('save-coco', 'coco.json');
}

function showLink(id, file) {
  const link = document.getElementById(id);
  const hasMasks = state.count > 0;
  link.setAttribute('aria-disabled', String(!hasMasks));
  if (hasMasks) {
    link.href = address(`${API}/${file}`);
    link.download = '';
  } else {
    link.removeAttribute('href');
  }
}

async function act(name, data = {}) {
  if (state?.image) {
    const answer = await attempt(() => post(`${API}/${name}`, data));
    if (answer) {
      show(answer);
    } else {
      picture.cancel();
    }
  }
}

async function open(request) {
  await ready;
  const answer = await attempt(request);
  if (answer) {
    show(answer, true);
  }
}

function nextMask() {
  if (state?.masks.length > 1) {
    act('choose', {index: (state.chosen + 1) % state.masks.length});
  }
}

function clear() {
  picture.cancel();
  act('clear');
}

async function start() {
  showMasks([], 0, () => {});
  document.getElementById('name').hidden = detector !== 'yes';
  if (available !== 'yes') {
    document.querySelector('.workspace').hidden = true;
    return;
  }
  ready = attempt(() => enter(`${API}/visit`));
  connectOpening(
    (file) => open(() => upload(`${API}/upload`, file)),
    (name) => open(() => post(`${API}/sample`, {name})),
  );
  for (const [id, name] of Object.entries(buttons)) {
    document.getElementById(id).addEventListener('click', () => (name === 'clear' ? clear() : act(name)));
  }
  document.getElementById('modes').addEventListener('change', () => picture.cancel());
  connectZoom(picture);
  connectKeys({x: nextMode, m: nextMask, z: () => act('undo'), escape: clear, ...zoomKeys(picture)});
  const answer = await ready;
  if (answer) {
    show(answer.state, true);
  }
}

start();
