// SPDX-License-Identifier: Apache-2.0
// Which idle connections can be made anew from their descriptor, so that they need no memory until their next request.
#pragma once

#include "hybrid/httpd.hpp"

namespace hybrid {

/// Constant once made. Not movable unless proven (doc/notes): a connection is dormant only if nobody can tell the
/// difference.
class Dormancy {
  public:
    /// Looks at the modules that have to do with connections: an unknown one could keep something, and then none of its
    /// connections sleeps, which is said in the log. Child, after the configuration.
    explicit Dormancy(bool wanted);

    /// Some connection may sleep.
    bool possible() const { return possible_; }
    /// Nothing is kept on this connection, between two requests, that would be missed. Worker that has it.
    bool rebuildable(const conn_rec *c) const;

    /// The request, or its answer, has to do with an authentication that belongs to the connection (NTLM, Negotiate).
    static bool personal(const request_rec *r);

  private:
    bool possible_;
};

} // namespace hybrid
