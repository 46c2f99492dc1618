// SPDX-License-Identifier: Apache-2.0
#include "hybrid/request_timeouts.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace hybrid {

namespace {

constexpr const char *kModule = "mod_reqtimeout.c";

} // namespace

void *RequestTimeouts::create(apr_pool_t *pool, server_rec *)
{
    return new (apr_palloc(pool, sizeof(RequestTimeouts))) RequestTimeouts;
}

void *RequestTimeouts::merge(apr_pool_t *pool, void *base, void *over)
{
    auto *merged =
        new (apr_palloc(pool, sizeof(RequestTimeouts))) RequestTimeouts(*static_cast<RequestTimeouts *>(base));
    const auto &host = *static_cast<RequestTimeouts *>(over);
    if (host.handshake_.timeout >= 0)
        merged->handshake_ = host.handshake_;
    if (host.head_.timeout >= 0)
        merged->head_ = host.head_;
    if (host.body_.timeout >= 0)
        merged->body_ = host.body_;
    return merged;
}

const char *RequestTimeouts::set(cmd_parms *cmd, const char *argument)
{
    if (!ap_find_linked_module(kModule))
        return "Invalid command 'RequestReadTimeout', perhaps misspelled or defined by a module not included in the "
               "server "
               "configuration";
    auto &timeouts =
        *static_cast<RequestTimeouts *>(ap_get_module_config(cmd->server->module_config, &mpm_hybrid_module));
    while (*argument) {
        const char *word = ap_getword_conf(cmd->temp_pool, &argument);
        if (!strncasecmp(word, "handshake=", 10))
            timeouts.handshake_.set(word + 10);
        else if (!strncasecmp(word, "header=", 7))
            timeouts.head_.set(word + 7);
        else if (!strncasecmp(word, "body=", 5))
            timeouts.body_.set(word + 5);
    }
    return nullptr;
}

// timeout[-most],MinRate=rate
void RequestTimeouts::Stage::set(const char *value)
{
    *this = Stage();
    timeout = std::atoi(value);
    if (const char *dash = std::strchr(value, '-'))
        most = std::atoi(dash + 1);
    if (const char *found = ap_strcasestr(value, ",minrate="))
        rate = std::max(0, std::atoi(found + std::strlen(",minrate=")));
}

Duration RequestTimeouts::Stage::allows(std::size_t bytes, Duration otherwise) const
{
    if (timeout <= 0) // none of its own
        return otherwise;
    Duration length = timeout;
    if (rate > 0)
        length += static_cast<Duration>(bytes) / rate;
    if (most > 0)
        length = std::min<Duration>(length, most);
    return seconds(length);
}

const RequestTimeouts &RequestTimeouts::of(const server_rec *server)
{
    return *static_cast<RequestTimeouts *>(ap_get_module_config(server->module_config, &mpm_hybrid_module));
}

Duration RequestTimeouts::handshake(const server_rec *server)
{
    return ap_find_linked_module(kModule) ? of(server).handshake_.allows(0, server->timeout) : server->timeout;
}

Duration RequestTimeouts::head(const server_rec *server, std::size_t bytes)
{
    if (!ap_find_linked_module(kModule))
        return server->timeout;
    constexpr Stage by_default = {20, 40, 500};
    const Stage &stage = of(server).head_;
    return (stage.timeout < 0 ? by_default : stage).allows(bytes, server->timeout);
}

Duration RequestTimeouts::body(const server_rec *server, std::size_t bytes)
{
    if (!ap_find_linked_module(kModule))
        return server->timeout;
    constexpr Stage by_default = {20, 0, 500};
    const Stage &stage = of(server).body_;
    return (stage.timeout < 0 ? by_default : stage).allows(bytes, server->timeout);
}

} // namespace hybrid
