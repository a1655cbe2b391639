/** Takes pictures from a camera that the browser can see. */

import { byId, element, openDialog, setText } from './dom.js';

const MOST_PIXELS = { width: { ideal: 1920 }, height: { ideal: 1920 } };
let taken = 0;
let asked = 0; // how often a camera was started or stopped: what comes after that is not wanted any more

/**
 * Offer the camera where there is one; a page that was not loaded over HTTPS or from this machine gets none.
 * @param {(found: import('./files.js').Found[]) => void} onPicture
 */
export async function offerCamera(onPicture) {
  if (!navigator.mediaDevices?.getUserMedia) return;
  const show = async () => { byId('open-camera').hidden = !(await camerasSeen()).length; };
  navigator.mediaDevices.addEventListener('devicechange', show); // a microscope may be plugged in later
  await show();
  byId('open-camera').addEventListener('click', () => openCamera());
  byId('camera-device').addEventListener('change', () => start(byId('camera-device').value));
  byId('camera-shot').addEventListener('click', () => shoot(onPicture));
  byId('camera-dialog').addEventListener('close', stop);
}

async function camerasSeen() {
  const devices = await navigator.mediaDevices.enumerateDevices().catch(() => []);
  return devices.filter((device) => device.kind === 'videoinput');
}

async function openCamera() {
  openDialog(byId('camera-dialog'));
  const select = byId('camera-device');
  const last = select.value;
  const isThere = (await camerasSeen()).some(({ deviceId }) => deviceId === last); // it may have been unplugged
  await start(isThere ? last : '');
  const cameras = await camerasSeen(); // they have names only after the user agreed
  select.replaceChildren(...cameras.map(({ deviceId, label }, place) => (
    element('option', { value: deviceId }, label || `Camera ${place + 1}`)
  )));
  const [track] = byId('camera-video').srcObject?.getVideoTracks() ?? [];
  const shown = track?.getSettings().deviceId ?? last;
  if (shown) select.value = shown;
}

/** @param {string} deviceId empty: the browser's choice */
async function start(deviceId) {
  stop();
  const mine = asked;
  setText(byId('camera-note'), 'Waiting for the camera …');
  try {
    const device = deviceId ? { deviceId: { exact: deviceId } } : {};
    const stream = await navigator.mediaDevices.getUserMedia({ video: { ...device, ...MOST_PIXELS } });
    if (mine !== asked || !byId('camera-dialog').open) { // closed, or another one was chosen, while the user was asked
      stopTracks(stream);
      return;
    }
    byId('camera-video').srcObject = stream;
    setText(byId('camera-note'), '');
  } catch (error) {
    if (mine === asked) setText(byId('camera-note'), `No picture from the camera: ${/** @type {Error} */ (error).message}`);
  }
}

function stop() {
  asked += 1;
  stopTracks(byId('camera-video').srcObject);
  byId('camera-video').srcObject = null;
}

/** @param {MediaStream|null} stream */
function stopTracks(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}

/**
 * Take the square that the frame shows.
 * @param {(found: import('./files.js').Found[]) => void} onPicture
 */
async function shoot(onPicture) {
  const video = byId('camera-video');
  const side = Math.min(video.videoWidth, video.videoHeight);
  if (!side) return;
  const canvas = element('canvas', { width: side, height: side });
  canvas.getContext('2d').drawImage(video, (video.videoWidth - side) / 2, (video.videoHeight - side) / 2, side, side, 0, 0, side, side);
  const blob = await new Promise((resolve) => { canvas.toBlob(resolve, 'image/png'); });
  if (!blob) return;
  taken += 1;
  const path = `camera-${taken}.png`;
  onPicture([{ path, file: new File([blob], path, { type: 'image/png' }) }]);
  setText(byId('camera-note'), `Picture ${taken} was taken.`);
}
