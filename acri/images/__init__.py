# SPDX-License-Identifier: Apache-2.0
"""Images: from a name that a user wrote to a snapshot that a container can stand on.

    reference   names and ids, as Kubernetes users write them            (pure)
    hosts       certs.d: which hosts serve a registry, and how           (files; called in a thread)
    auth        credentials, challenges, tokens                          (pure, but for the token request)
    proxies     which proxy the environment asks for                     (pure)
    http        aiohttp, imported at the first pull
    registry    one repository over its hosts: resolve, manifests, blobs
    manifest    manifests, indexes, configurations, platforms            (pure)
    fetch       a blob from a registry into containerd's content store
    unpack      layers into snapshots
    pull        the operation
    catalog     what is here, in memory
    service     ImageService: what the API calls

`service.ImageService` is what the rest of acri uses.
"""
