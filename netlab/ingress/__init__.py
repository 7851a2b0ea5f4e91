"""An ingress controller: what the image `netlab/ingress` runs in a pod, beside a real nginx.

    __main__      the arguments, which are ingress-nginx's own
    controller    follows etcd; what changed goes to nginx, what came of it back into objects
    server        nginx: its directory, its process, what it is told
    certificates  Secrets as files that nginx can read, and those it could not
    telling       notes as events, each once

What the objects mean is decided in `netlab.vhosts`, which knows neither etcd nor processes.
"""
