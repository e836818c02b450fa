/** Requests to the page's own server, and what the page shows of their outcome. */

const PROBLEM_MILLISECONDS = 9000;
const GONE = 410;

let visitor = null;
let pending = 0;
let problemTimer = null;

/** A request that the server has refused; the message says why. */
class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function send(path, body, headers) {
  let response;
  try {
    response = await fetch(path, {
      method: 'POST',
      body,
      headers: {'X-Visitor': visitor ?? '', ...headers},
    });
  } catch {
    throw new Refused('The server does not answer. Is mmssl demo still running?', 0);
  }
  if (!response.ok) {
    throw new Refused(await response.text(), response.status);
  }
  return response.status === 204 ? {} : response.json();
}

/** Enter as a new visitor, and say so to the server when the page is closed. */
export async function enter(path) {
  const answer = await send(path, '{}', {'Content-Type': 'application/json'});
  if (visitor === null) {
    addEventListener('pagehide', () => navigator.sendBeacon('api/leave', visitor));
    // a page that comes back from the browser's memory has left already
    addEventListener('pageshow', (event) => event.persisted && location.reload());
  }
  visitor = answer.visitor;
  return answer;
}

export function post(path, data = {}) {
  return send(path, JSON.stringify(data), {'Content-Type': 'application/json'});
}

export function upload(path, file) {
  return send(path, file, {
    'Content-Type': 'application/octet-stream',
    'X-File-Name': encodeURIComponent(file.name),
  });
}

/** Address of a file of this visitor. */
export function address(path, version = '') {
  return `${path}?visitor=${encodeURIComponent(visitor)}&version=${encodeURIComponent(version)}`;
}

/**
 * Wait for a request and show that the page is working; a refusal is shown, and gives undefined.
 * With onGone, that is called for a visit that has ended.
 */
export async function attempt(request, onGone = null) {
  const working = document.getElementById('working');
  pending += 1;
  // quick answers do without
  const timer = setTimeout(() => { working.hidden = false; }, 250);
  try {
    return await request();
  } catch (error) {
    if (!(error instanceof Refused)) {
      throw error;
    }
    if (error.status === GONE && onGone) {
      return await onGone();
    }
    showProblem(error.message);
    return undefined;
  } finally {
    clearTimeout(timer);
    pending -= 1;
    if (pending === 0) {
      working.hidden = true;
    }
  }
}

export function showProblem(text) {
  const problem = document.getElementById('problem');
  clearTimeout(problemTimer);
  problem.textContent = text;
  problem.hidden = false;
  problemTimer = setTimeout(() => { problem.hidden = true; }, PROBLEM_MILLISECONDS);
}

export function showStatus(text) {
  document.getElementById('status').textContent = text;
}
