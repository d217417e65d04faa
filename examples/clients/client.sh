#!/usr/bin/env bash
# Draws an image with curl, from `kgen serve` or TensorFlow Serving, over the API that both have.
#
#     examples/clients/client.sh http://127.0.0.1:8501 vae '"seed": 7, "label": 3' seven.png
#
# The last two may be left out. A token, where the server asks for one, is read from the
# environment, as KGEN_SERVE_TOKEN.
set -euo pipefail

address=$1 model=$2 inputs=${3:-'"seed": 7'} output=${4:-image.png}

call() { # the server's answer; what it says is wrong goes to standard error
  local answer
  answer=$(
    curl --silent --show-error --fail-with-body --retry 5 --max-time 60 \
      --config <(printf 'header = "Authorization: Bearer %s"\n' "${KGEN_SERVE_TOKEN:-none}") "$@"
  ) || { printf '%s\n' "$answer" >&2; return 1; }
  printf '%s\n' "$answer"
}

call "$address/v1/models/$model"
call "$address/v1/models/$model:predict" \
  -d "{\"signature_name\": \"image_bytes\", \"instances\": [{$inputs}]}" |
  sed -n 's/.*"b64": *"\([^"]*\)".*/\1/p' | base64 -d >"$output"
echo "$output: $(wc -c <"$output") bytes"
