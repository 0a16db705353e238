// Gaussians drawn by the browser, with Spark on WebGL2. The settings are those that make its pictures the server's: the
// same widening by 0.3 px^2, the same cut-offs, sorting by depth, plain black behind.

import * as THREE from "three";
import { SparkRenderer, SplatFileType, SplatMesh } from "@sparkjsdev/spark";

const LEAST_ALPHA = 1 / 255;
const NEAR = 0.01;
// By SPZ's rule its axes are right, up, back; the scene's own, in which cameras are given, are right, down, forward.
const HALF_TURN = new THREE.Quaternion(1, 0, 0, 0);

export class SplatDrawing {
  mode = "browser";

  /**
   * @param scene what the API says of it.
   * @param bytes its file, as SPZ.
   * @param onLost called when the browser takes the drawing surface away.
   */
  static async open(canvas, scene, bytes, onLost) {
    const drawing = new SplatDrawing(canvas, scene.bounds.radius, onLost);
    await drawing.load(bytes, scene.sh_degree);
    return drawing;
  }

  constructor(canvas, radius, onLost) {
    this.canvas = canvas;
    this.radius = radius;
    this.renderer = new THREE.WebGLRenderer({ canvas, antialias: false, alpha: false });
    this.renderer.setClearColor(0x000000, 1);
    this.renderer.setPixelRatio(1);
    this.scene = new THREE.Scene();
    this.camera = new THREE.PerspectiveCamera(50, 1, NEAR * Math.min(1, radius || 1), 1000);
    this.spark = new SparkRenderer({
      renderer: this.renderer,
      maxStdDev: Math.sqrt(-2 * Math.log(LEAST_ALPHA)),
      minAlpha: LEAST_ALPHA,
      preBlurAmount: 0.3,
      blurAmount: 0,
      maxPixelRadius: 2048,
      sortRadial: false,
      onDirty: () => this.request(),
    });
    this.scene.add(this.spark);
    canvas.addEventListener("webglcontextlost", onLost, { once: true });
  }

  // Spark 2.2 keeps centres in 16 bits, or all in 32, which rounds harmonics towards zero by up to a half: a scene with
  // harmonics has to make do with the former.
  async load(bytes, degree) {
    const mesh = new SplatMesh({ fileBytes: bytes, fileType: SplatFileType.SPZ, extSplats: degree === 0 });
    await mesh.initialized;
    mesh.quaternion.copy(HALF_TURN);
    this.scene.add(mesh);
  }

  resize(width, height) {
    this.renderer.setSize(width, height, false);
    this.camera.aspect = width / height;
  }

  /** Shows a view, soon. */
  show(view) {
    this.camera.fov = view.fov_deg;
    this.camera.up.set(...view.up);
    this.camera.position.set(...view.eye);
    this.camera.lookAt(...view.target);
    this.camera.far = 1000 * (this.radius + this.camera.position.distanceTo(new THREE.Vector3(...view.target)));
    this.camera.updateProjectionMatrix();
    this.request();
  }

  request() {
    if (this.framing) return;
    this.pending ??= requestAnimationFrame(() => {
      this.pending = undefined;
      this.renderer.render(this.scene, this.camera);
    });
  }

  /** The canvas, with the shown view on it and every Gaussian in its place. Read it before anything else is awaited. */
  async frame() {
    this.framing = true;
    cancelAnimationFrame(this.pending);
    this.pending = undefined;
    try {
      await this.sorted();
      this.camera.updateMatrixWorld();
      await this.spark.update({ scene: this.scene, camera: this.camera });
      await this.sorted();
      this.renderer.render(this.scene, this.camera);
    } finally {
      this.framing = false;
    }
    return this.canvas;
  }

  async sorted() {
    const { spark } = this;
    while (!this.closed && (spark.sorting || spark.sortDirty)) await new Promise((resolve) => setTimeout(resolve, 5));
  }

  close() {
    this.closed = true;
    cancelAnimationFrame(this.pending);
    this.renderer.dispose();
  }
}
