# SPDX-License-Identifier: Apache-2.0
# The shared server runs on the MPM the suite is about, and serves.

use strict;
use warnings;
use Apache::Test;
use Apache::TestRequest qw(GET_BODY GET);
use Apache::TestUtil;
use Hybrid::Server;

plan tests => 3;

my $mpm = Hybrid::Server::mpm();
my $status = GET_BODY('/server-status?auto');
ok t_cmp($status, qr/^ServerMPM: $mpm$/m, 'mod_status names the MPM');
ok t_cmp(scalar($status =~ /^ConnsTotal: \d+$/m) || 0, $mpm eq 'worker' ? 0 : 1, 'and shows connections when it is asynchronous');
ok t_cmp(GET('/no-such-file')->code, 404, 'a missing file');
