// SPDX-License-Identifier: Apache-2.0
// What httpd asks its MPM before there are children: the start of a configuration pass, and ap_mpm_query().
#pragma once

#include "hybrid/config.hpp"
#include "hybrid/retained.hpp"

namespace hybrid {

/// One configuration pass begins: run modes, detaching from the terminal, and every default anew (H06-H11). OK or an
/// HTTP error. Parent.
int begin_configuration(Retained &retained, Config &config, apr_pool_t *pconf);

/// ap_mpm_query(): always OK; `rv` says APR_ENOTIMPL for what this httpd or we don't know (H16). Any thread.
int answer_query(int code, const Config &config, const Retained &retained, int *result, apr_status_t *rv);

} // namespace hybrid
