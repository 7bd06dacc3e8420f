"""How certain a fit is: information, intervals, influence, tests, and a density for samplers."""

from jem.ask import resample as resample
from jem.ask.bootstrap import Bootstrap as Bootstrap
from jem.ask.density import LogDensity as LogDensity
from jem.ask.density import log_density as log_density
from jem.ask.errors import StandardErrors as StandardErrors
from jem.ask.errors import delta_method as delta_method
from jem.ask.influence import Influence as Influence
from jem.ask.influence import LeaveOneOut as LeaveOneOut
from jem.ask.influence import influence as influence
from jem.ask.influence import leave_one_out as leave_one_out
from jem.ask.information import OPG as OPG
from jem.ask.information import Hessian as Hessian
from jem.ask.information import Information as Information
from jem.ask.information import Louis as Louis
from jem.ask.information import Oakes as Oakes
from jem.ask.information import Sandwich as Sandwich
from jem.ask.information import SupplementedEM as SupplementedEM
from jem.ask.information import information as information
from jem.ask.polish import InformationStatus as InformationStatus
from jem.ask.profile import ProfileInterval as ProfileInterval
from jem.ask.profile import profile_interval as profile_interval
from jem.ask.ratio import LikelihoodRatioTest as LikelihoodRatioTest
from jem.ask.ratio import TestStatus as TestStatus
from jem.ask.ratio import likelihood_ratio_test as likelihood_ratio_test
