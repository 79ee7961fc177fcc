# The rig's own program, statically linked: the upstreams that fail. Nothing is pulled.
FROM scratch
COPY integration /integration
ENTRYPOINT ["/integration"]
