#!/bin/sh
# The roles of the image: one process of a federation each, or a short task around it.
#
#   credentials NODE…      make certificates, keys and the superexec's secret, if there are none
#   superlink              the server that nodes and commands connect to
#   register               tell the SuperLink the nodes' public keys
#   superexec              starts the ServerApp of each run
#   supernode              a node; POTARA_NODE says what it is, as --node-config has it
#   run [name=value …]     submit the app to the SuperLink, follow it, end with its exit status
#   anything else          a subcommand of potara: run, doctor, report …
#
# Further words go to Flower's command. With POTARA_PRINT set, the command is printed, a word a
# line, and not run.
set -eu

credentials=${POTARA_CREDENTIALS:-/credentials}
superlink=${POTARA_SUPERLINK:-superlink:8443}
health=${POTARA_HEALTH:-127.0.0.1:8001}
state=${POTARA_STATE:-/var/lib/potara}
here=$(dirname "$(readlink -f "$0")")

# Tells the flwr command, in a home of its own, where the SuperLink is and whom to trust.
connect() {
    FLWR_HOME=$(mktemp -d)
    export FLWR_HOME
    cat >"$FLWR_HOME/config.toml" <<END
[superlink]
default = "potara"

[superlink.potara]
address = "$superlink"
root-certificates = "$credentials/ca.crt"
END
}

register() {
    for key in "$credentials"/*.pub; do
        name=$(basename "$key" .pub)
        if said=$(flwr supernode register "$key" potara --name "$name" 2>&1); then
            echo "$name: registered"
        elif [ "${said#*already in use}" != "$said" ]; then
            echo "$name: was registered before"
        else
            echo "error: $name: $said" >&2
            return 1
        fi
    done
}

role=${1:---help}
[ $# -eq 0 ] || shift
case $role in
credentials)
    set -- python -m potara_flwr.command credentials "$credentials" "$@" \
        --names "${POTARA_NAMES:-DNS:superlink,DNS:localhost,IP:127.0.0.1}" \
        --days "${POTARA_DAYS:-365}"
    ;;
superlink)
    set -- flower-superlink --host "${POTARA_HOST:-0.0.0.0}" --port "${superlink##*:}" \
        --ssl-ca-certfile "$credentials/ca.crt" \
        --ssl-certfile "$credentials/server.crt" --ssl-keyfile "$credentials/server.key" \
        --enable-supernode-auth --database "$state/state.db" \
        --isolation process --superexec-auth-secret-file "$credentials/superexec.secret" \
        --disable-runtime-dependency-installation --health-server-address "$health" "$@"
    ;;
superexec)
    set -- flower-superexec --runtime-api-address "$superlink" \
        --root-certificates "$credentials/ca.crt" \
        --superexec-auth-secret-file "$credentials/superexec.secret" \
        --health-server-address "$health" "$@"
    ;;
supernode)
    set -- potara node --superlink "$superlink" \
        --root-certificates "$credentials/ca.crt" \
        --auth-supernode-private-key "$credentials/node.key" \
        --node-config "${POTARA_NODE:?says what this node is, e.g. name=\"node-0\"}" \
        --health-server-address "$health" "$@"
    ;;
register)
    connect
    set -- register
    ;;
run)
    connect
    set -- python "$here/submit.py" "$@"
    ;;
*)
    set -- potara "$role" "$@"
    ;;
esac

if [ -n "${POTARA_PRINT:-}" ]; then
    printf '%s\n' "$@"
elif [ "$role" = register ]; then
    register
else
    exec "$@"
fi
