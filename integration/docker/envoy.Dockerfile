# Envoy and the files that `ldd` names, laid out under root/ by the rig (integration/src/site/compose.rs). Nothing is pulled.
FROM scratch
COPY root/ /
ENTRYPOINT ["/usr/local/bin/envoy"]
