/** The page that shows reconstructions of a masked autoencoder. */

import {connectOpening} from './open.js';
import {attempt, enter, post, showStatus, upload} from './server.js';

const API = 'api/reconstruct';
const image = document.getElementById('reconstruction');
const ratio = document.getElementById('ratio');

let seed = 0;
let hasImage = false;
// files may be dropped before the visit has begun
let ready = null;

function showRatio() {
  document.getElementById('ratio-text').textContent = `${Math.round(100 * ratio.value)} %`;
}

async function draw(sample = null) {
  await ready;
  if (!hasImage && sample === null) {
    return;
  }
  const answer = await attempt(() => post(`${API}/draw`, {ratio: Number(ratio.value), seed, sample}));
  if (answer) {
    hasImage = true;
    image.src = answer.picture;
    image.hidden = false;
    document.getElementById('empty').hidden = true;
    showStatus(answer.note);
  }
}

async function open(file) {
  await ready;
  const answer = await attempt(() => upload(`${API}/upload`, file));
  if (answer) {
    hasImage = true;
    await draw();
  }
}

async function start() {
  showRatio();
  if (document.body.dataset.available !== 'yes') {
    document.querySelector('.workspace').hidden = true;
    return;
  }
  ready = attempt(() => enter(`${API}/visit`));
  connectOpening(open, draw);
  ratio.addEventListener('input', showRatio);
  ratio.addEventListener('change', () => draw());
  document.getElementById('redraw').addEventListener('click', () => {
    seed += 1;
    draw();
  });
  const [first] = JSON.parse(document.body.dataset.samples);
  if (first && await ready) {
    document.getElementById('sample').value = first;
    await draw(first);
  }
}

start();
