# The guide's curl lines, its slips included. Prints `ok WHAT` or `FAILED WHAT: WHY`.
check() { # what, wanted status, got "body<newline>status"
    status=$(printf '%s' "$3" | tail -n 1)
    if [ "$status" = "$2" ]; then echo "ok $1"; else echo "FAILED $1: $(printf '%s' "$3" | tr '\n' ' ')"; fi
}
field() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p"; }
curl_() { curl --silent --show-error --write-out '\n%{http_code}' "$@"; }

answer=$(curl_ -X POST "$AZURE_OPENAI_ENDPOINT/openai/files?api-version=2023-12-01-preview" \
    -H "Content-Type: multipart/form-data" -H "api-key: $AZURE_OPENAI_API_KEY" \
    -F "purpose=fine-tune" -F "file=@$TRAINING_FILE;type=application/json")
check "upload with a Content-Type header beside -F" 201 "$answer"
file=$(printf '%s' "$answer" | head -n 1 | field id)

answer=$(curl_ -X POST "$AZURE_OPENAI_ENDPOINT/openai/fine_tuning/jobs?api-version=2023-12-01-preview" \
    -H "Content-Type: application/json" -H "api-key: $AZURE_OPENAI_API_KEY" \
    -d "{\"model\": \"gpt-35-turbo-0613\", \"training_file\": \"$file\"}")
check "create a job" 201 "$answer"
job=$(printf '%s' "$answer" | head -n 1 | field id)

for _ in $(seq 100); do
    answer=$(curl_ "$AZURE_OPENAI_ENDPOINT/openai/fine_tuning/jobs/$job?api-version=2023-12-01-preview" \
        -H "api-key: $AZURE_OPENAI_API_KEY")
    case "$answer" in *'"succeeded"'*) break ;; esac
    sleep 0.1
done
check "poll the job" 200 "$answer"
model=$(printf '%s' "$answer" | head -n 1 | field fine_tuned_model)

data="{\"sku\": {\"name\": \"standard\", \"capacity\": 1}, \"properties\": {\"model\": {\"format\": \"OpenAI\", \"name\": \"$model\", \"version\": \"1\"}}}"
answer=$(curl_ --cacert "$CA" -X POST "$ARM/deployments/curlapi-version=2023-05-01" \
    -H "Authorization: Bearer $ARM_TOKEN" -H "Content-Type: application/json" -d "$data")
check "the line that forgets the question mark is told so" 400 "$answer"
answer=$(curl_ --cacert "$CA" -X POST "$ARM/deployments/curl?api-version=2023-05-01" \
    -H "Authorization: Bearer $ARM_TOKEN" -H "Content-Type: application/json" -d "$data")
check "POST deploys as PUT does" 201 "$answer"
sleep 1
answer=$(curl_ "$AZURE_OPENAI_ENDPOINT/openai/deployments/curl/chat/completions?api-version=2023-05-15" \
    -H "Content-Type: application/json" -H "api-key: $AZURE_OPENAI_API_KEY" \
    -d '{"messages":[{"role": "system", "content": "You are a helpful assistant."},{"role": "user", "content": "Hello"}]}')
check "chat" 200 "$answer"
answer=$(curl_ --cacert "$CA" -X DELETE "$ARM/deployments/curl?api-version=2023-05-01" -H "Authorization: Bearer $ARM_TOKEN")
check "delete the deployment" 200 "$answer"
