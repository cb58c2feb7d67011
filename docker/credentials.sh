#!/bin/sh
# Make what a federation's processes identify themselves by, a folder for each, unless it is there:
# what docs/guides/deployment.md does by hand.
#
#   credentials.sh FOLDER NODE…
#
#   superlink/   ca.crt, server.crt, server.key, superexec.secret
#   superexec/   ca.crt, superexec.secret
#   client/      ca.crt and each node's public key: for the roles register and run
#   NODE/        ca.crt, node.key, node.key.pub
#
# POTARA_NAMES says by which names and addresses the SuperLink is reached. The authority's own key
# is thrown away: to renew, or to change the names, delete superlink/ and run this again, which gives
# every process a new ca.crt. A node's key is made once; delete its folder for another.
set -eu
umask 077

folder=$1
shift
names=${POTARA_NAMES:-DNS:superlink,DNS:localhost,IP:127.0.0.1}
days=${POTARA_DAYS:-365}
new=$folder/superlink.new

# openssl tells on stderr what goes well, too.
quietly() {
    said=$("$@" 2>&1) || {
        echo "error: $said" >&2
        exit 1
    }
}

# Moved into place when it is whole, so that what was interrupted is made again.
if [ ! -d "$folder/superlink" ]; then
    rm -rf "$new"
    mkdir -p "$new" "$folder/superexec" "$folder/client"
    quietly openssl ecparam -name secp384r1 -genkey -noout -out "$new/ca.key"
    quietly openssl req -x509 -new -key "$new/ca.key" -sha256 -days "$days" \
        -subj "/CN=Potara federation" -addext "basicConstraints=critical,CA:TRUE,pathlen:0" \
        -addext "keyUsage=critical,keyCertSign,cRLSign" -out "$new/ca.crt"
    quietly openssl ecparam -name secp384r1 -genkey -noout -out "$new/server.key"
    quietly openssl req -new -key "$new/server.key" -subj "/CN=superlink" -out "$new/server.csr"
    printf '%s\n' "subjectAltName=$names" "basicConstraints=critical,CA:FALSE" \
        "authorityKeyIdentifier=keyid" "extendedKeyUsage=serverAuth" >"$new/server.ext"
    quietly openssl x509 -req -in "$new/server.csr" -CA "$new/ca.crt" -CAkey "$new/ca.key" \
        -CAcreateserial -sha256 -days "$days" -extfile "$new/server.ext" -out "$new/server.crt"
    openssl rand -hex 32 | tr -d '\n' >"$new/superexec.secret"
    rm -f "$new/ca.key" "$new/ca.srl" "$new/server.csr" "$new/server.ext"
    mv "$new" "$folder/superlink"
    echo "superlink: certificate for $names, $days days"
fi
cp "$folder/superlink/ca.crt" "$folder/superlink/superexec.secret" "$folder/superexec"
cp "$folder/superlink/ca.crt" "$folder/client"

for node in "$@"; do
    if [ ! -f "$folder/$node/node.key.pub" ]; then
        rm -rf "${folder:?}/$node"
        mkdir -p "$folder/$node"
        ssh-keygen -q -t ecdsa -b 384 -N '' -C "$node" -f "$folder/$node/node.key"
        echo "$node: key"
    fi
    cp "$folder/superlink/ca.crt" "$folder/$node"
    cp "$folder/$node/node.key.pub" "$folder/client/$node.pub"
done
