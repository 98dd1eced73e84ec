// What the worker that counts checksums imports.
export { createSHA256 } from "hash-wasm";
