#!/bin/bash
# Run inside the ComfyUI container before ComfyUI starts: fetches the models named in CIVITAI_MODELS, each once.
# The token goes into a request header and to civitai.com alone: not into an argument, not along a redirect.
python3.13 - <<'PYTHON' || echo "[WARN] Not every Civitai model could be fetched."
import os, pathlib, shutil, sys, urllib.request

models = pathlib.Path("/root/ComfyUI/models")
failed = False
for entry in os.environ.get("CIVITAI_MODELS", "").split():
    folder, _, version = entry.partition("/")
    marker = models / folder / f".civitai-{version}"
    if marker.exists():
        continue
    request = urllib.request.Request(f"https://civitai.com/api/download/models/{version}")
    request.add_unredirected_header("Authorization", "Bearer " + os.environ.get("CIVITAI_TOKEN", ""))
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            name = pathlib.PurePath(answer.headers.get_filename() or f"{version}.safetensors").name
            print(f"[INFO] Civitai {version}: {folder}/{name}", flush=True)
            marker.parent.mkdir(parents=True, exist_ok=True)
            part = marker.parent / f"{name}.part"
            with part.open("wb") as file:
                shutil.copyfileobj(answer, file)
            part.rename(marker.parent / name)
            marker.touch()
    except OSError as error:
        print(f"[WARN] Civitai {version}: {error}", flush=True)
        failed = True
sys.exit(failed)
PYTHON
