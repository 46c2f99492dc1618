// SPDX-License-Identifier: Apache-2.0
// Faults that sanitizers must see, in a module of our own: for t/16-sanitizers.t, linked into no other. /planted?NAME
// has one of them happen.
#include "hybrid/httpd.hpp"

#include <climits>
#include <cstring>

namespace {

int racing; // two workers write to it

int heap()
{
    int *volatile gone = new int(1);
    delete gone;
    return *gone;
}

void undefined()
{
    volatile int most = INT_MAX;
    most = most + 1;
}

void race()
{
    ++racing;
    apr_sleep(apr_time_from_msec(300));
    ++racing;
}

int handle(request_rec *r)
{
    if (std::strcmp(r->uri, "/planted") != 0 || !r->args)
        return DECLINED;
    if (!std::strcmp(r->args, "heap"))
        racing = heap();
    else if (!std::strcmp(r->args, "undefined"))
        undefined();
    else if (!std::strcmp(r->args, "race"))
        race();
    ap_rputs("planted\n", r);
    return OK;
}

// While it is loaded, as every module's register_hooks() is.
__attribute__((constructor)) void plant()
{
    ap_hook_handler(handle, nullptr, nullptr, APR_HOOK_FIRST);
}

} // namespace
