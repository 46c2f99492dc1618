// SPDX-License-Identifier: Apache-2.0
// What the module shows of itself: SetHandler hybrid-status.
#pragma once

#include "hybrid/retained.hpp"

namespace hybrid {

/// A handler: text in the form of mod_status's ?auto, a name and a number on each line. How many clients' connections
/// were opened, in all children since the server's start, and how many have ended, in all and for each CloseReason. One
/// that goes on in another child has ended as Moved, and has been opened there. DECLINED when the request is not for
/// it. Worker's thread.
int show_status(request_rec *r, const Retained &retained);

} // namespace hybrid
