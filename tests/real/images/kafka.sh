# What the image apache/kafka does: KAFKA_NODE_ID is node.id, and so on; the storage is made at the first start.
set -euo pipefail
settings=/opt/kafka/config/server.properties
logging=/opt/kafka/config/log4j2.properties
: > "$settings"
while IFS= read -r pair; do
    name=${pair%%=*}
    name=${name#KAFKA_}
    case $name in HEAP_OPTS) continue ;; esac
    name=${name,,}
    echo "${name//_/.}=${pair#*=}" >> "$settings"
done < <(env | grep '^KAFKA_')
cat > "$logging" <<'LOGGING'
status = warn
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %p %c %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
LOGGING
options=(-Dlog4j2.configurationFile="$logging" -cp '/opt/kafka/libs/*')
java -Xmx128m "${options[@]}" kafka.tools.StorageTool format --cluster-id "$CLUSTER_ID" --config "$settings" \
    --ignore-formatted
# shellcheck disable=SC2086 # these are several words
exec java $KAFKA_HEAP_OPTS "${options[@]}" kafka.Kafka "$settings"
