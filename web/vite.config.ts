import { defineConfig } from "vite";

// Fixed names: the server serves just these files, and the build is committed. Nothing of the
// machine that builds gets in, so the same sources give the same bytes.
export default defineConfig({
  base: "/",
  build: {
    outDir: "../src/nt_memory/apps/server/dashboard/built",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
    sourcemap: false,
    cssCodeSplit: false,
    assetsInlineLimit: 0,
    rollupOptions: {
      output: {
        entryFileNames: "dashboard/app.js",
        assetFileNames: "dashboard/app[extname]",
        codeSplitting: false,
      },
    },
  },
  server: { proxy: { "/v1": "http://127.0.0.1:3000", "/ready": "http://127.0.0.1:3000" } },
});
